"""The study of invariance: sound potentials pass, and each way to break one is found."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from anipot import load
from anipot.data.conformers import Conformers
from anipot.errors import SettingsError
from anipot.networks.repulsion import Repulsion
from anipot.potential.model import ANIModel
from anipot.potential.prediction import Prediction
from anipot.studies import invariance
from anipot.studies.invariance_checks import CHECKS
from anipot.studies.invariance_systems import APART, molecules_for, random_cluster

Term = Callable[[np.ndarray, np.ndarray], float]  # hartree, of atomic numbers and coordinates


class Broken(ANIModel):
    """A sound potential of which ``change`` spoils what it says."""

    change: Callable[[Conformers, Prediction], Prediction]

    def predict(self, data: Conformers, **wanted) -> Prediction:
        return self.change(data, super().predict(data, **wanted))


def broken(change: Callable[[Conformers, Prediction], Prediction]) -> Broken:
    model = Broken.create("HCNO", hidden=[8], seed=1).eval()
    model.change = change
    return model


def with_term(term: Term) -> Callable[[Conformers, Prediction], Prediction]:
    """Adds a term that no potential should have, and its forces (numerical)."""

    def change(data: Conformers, found: Prediction) -> Prediction:
        energies = found.energies.copy()
        added = None if found.forces is None else found.forces.astype(float)
        h = 1e-6
        for m in range(len(data)):
            own = slice(data.offsets[m], data.offsets[m + 1])
            numbers, x = data.atomic_numbers[own], data.coordinates[own]
            energies[m] += term(numbers, x)
            for k in range(x.size) if added is not None else ():
                up, down = x.copy(), x.copy()
                up.flat[k] += h
                down.flat[k] -= h
                slope = (term(numbers, up) - term(numbers, down)) / (2 * h)
                added[own].reshape(-1)[k] -= slope
        return replace(found, energies=energies, forces=added)

    return change


def sound(**options) -> ANIModel:
    return ANIModel.create("HCNO", hidden=[8], seed=1, **options).eval()


def failing(potential, n: int = 3) -> set[str]:
    rows = invariance.judged(invariance.deviations(potential, molecules_for(potential, n)))
    return {check for check, row in rows.items() if not row["holds"]["float64"]}


def pairs(x: np.ndarray) -> np.ndarray:
    i, j = np.triu_indices(len(x), 1)
    return np.linalg.norm(x[i] - x[j], axis=1)


def handed(_: np.ndarray, x: np.ndarray) -> float:
    """The volume that three moments of the atoms span, with its sign: a mirror turns it round."""
    arms = x - x.mean(axis=0)
    far = np.linalg.norm(arms, axis=1)[:, None]
    return 1e-5 * float(np.linalg.det(np.stack([(arms * far**k).sum(axis=0) for k in (1, 2, 3)])))


BREAKS: dict[str, tuple[Term, set[str], set[str]]] = {
    # name: the term, what must be seen to fail, and what must not
    "energy of the place": (
        lambda z, x: 1e-4 * float(x[:, 0].sum()),
        {"translation", "rotation", "reflection", "net force", "lattice translation"},
        {"permutation", "batch = singles", "forces = -dE/dx", "radial cutoff"},
    ),
    "order of the atoms": (
        lambda z, x: 1e-3 * float(np.linalg.norm(x[0] - x[1])),
        {"permutation"},
        {"translation", "rotation", "reflection", "net force", "net torque"},
    ),
    "no cutoff": (
        lambda z, x: 1e-2 * float((1 / pairs(x)).sum()),
        {"size extensivity", "lattice translation", "supercell"},
        {"permutation", "translation", "rotation", "net force", "radial cutoff"},
    ),
    "a sharp cutoff": (
        lambda z, x: 1e-3 * float((pairs(x) < 5.2).sum()),
        {"radial cutoff"},
        {"angular cutoff", "size extensivity", "permutation", "rotation"},
    ),
    "a force that jumps": (
        lambda z, x: 1e-3 * float(np.minimum(pairs(x) - 3.5, 0).sum()),
        {"angular cutoff"},
        {"radial cutoff", "size extensivity", "permutation", "rotation"},
    ),
    "handed": (
        handed,
        {"reflection"},
        {"translation", "rotation", "permutation", "net force", "net torque"},
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_potential_is_seen_to_be_broken(name):
    term, must_fail, must_hold = BREAKS[name]
    found = failing(broken(with_term(term)))
    assert must_fail <= found
    assert not found & must_hold


def test_forces_that_are_not_the_slope_are_seen():
    def change(data: Conformers, found: Prediction) -> Prediction:
        return replace(found, forces=None if found.forces is None else 1.01 * found.forces)

    assert failing(broken(change)) == {"forces = -dE/dx"}


def test_energies_summed_in_single_precision_are_seen():
    def change(data: Conformers, found: Prediction) -> Prediction:
        total = found.energies - 50.0 * data.n_atoms  # as large as those of real molecules
        return replace(found, energies=total.astype(np.float32).astype(float))

    assert "size extensivity" in failing(broken(change))


@pytest.mark.parametrize("options", [{}, {"repulsion": Repulsion(("H", "C", "N", "O"), 0.4, 1.2)}])
def test_sound_potentials_hold_whatever_their_weights(options):
    model = sound(**options)
    rows = invariance.judged(invariance.deviations(model, molecules_for(model, 4)))
    assert set(rows) == set(CHECKS) - (set() if options else {"repulsion's end"})
    assert all(all(row["holds"].values()) for row in rows.values()), rows
    assert max(row["float32"][0] or 0 for row in rows.values()) > 0


def test_elements_beyond_the_bundled_ones_come_in_clusters():
    model = ANIModel.create(["Li", "H"], hidden=[4], aev="ani2x")
    data = molecules_for(model, 3)
    assert data.elements == ("H", "Li")
    assert not data.has("energies").any()
    numbers, x = random_cluster(["Li", "Si"], np.random.default_rng(3))
    assert set(numbers) == {3, 14}
    assert 1.5 < pairs(x).min() < 3.0
    assert invariance.deviations(model, data)["permutation"]["float64"][0] < 1e-9


@pytest.mark.slow
def test_the_engine_without_cells_is_said(capsys, tmp_path):
    result = invariance.run(sound(engine="torchani"), tmp_path / "study", molecules=2)
    assert "supercell" not in result["checks"]
    assert "Crystals are left out" in capsys.readouterr().out


@pytest.mark.slow
def test_the_study_of_the_shipped_potential(tmp_path, capsys):
    result = invariance.run("anipot-hcno", tmp_path / "study", molecules=3)
    told = capsys.readouterr().out
    assert all(all(row["holds"].values()) for row in result["checks"].values())
    assert "All 14 hold for 3 molecules" in told
    assert "enantiomer" in told
    assert (tmp_path / "study" / "figures" / "deviations.png").stat().st_size > 5000
    kept = json.loads((tmp_path / "study" / "result.json").read_text())
    assert kept["checks"]["rotation"] == result["checks"]["rotation"]
    exact = [c for c in result["checks"] if c not in invariance.LIMITS]
    for k in (0, 1):
        worst = {
            d: max(v for c in exact if (v := result["checks"][c][d][k]) is not None)
            for d in ("float32", "float64")
        }
        assert worst["float64"] < 1e-5 * worst["float32"]


def test_a_file_that_is_not_there_and_one_molecule_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        invariance.run(str(tmp_path / "nothing.safetensors"), tmp_path / "study")
    with pytest.raises(SettingsError, match="at least 2"):
        invariance.run(load("anipot-hcno"), tmp_path / "study", molecules=1)
    assert not Path(tmp_path / "study").exists()
    assert APART == 20.0
