"""What the study of forces claims, at reduced size, and that it can be gone on with."""

import json

import numpy as np
import pytest

from anipot import load_bundled
from anipot.errors import SettingsError
from anipot.potential.model import ANIModel
from anipot.studies import forces
from anipot.studies.bond_survival import Dynamics
from anipot.studies.forces import COLUMNS, Size, Split, learnt, lowest, of_molecules

E, EF = forces.TRAININGS

TINY = Size(6, 2, (12,), 3, 2, Dynamics(time=5.0))


def test_forces_lower_the_force_error_several_times_on_conformers_held_out(monkeypatch):
    monkeypatch.setitem(forces.TRAINING, "batch_size", 16)
    small = load_bundled().select(heavy_atoms=1)
    training, validation, test = small.split(0.3, 0.1, 0.6, seed=0)
    found = {}
    for kind in forces.TRAININGS:
        model = forces.train(kind, training, validation, 12, threads=1)
        found[kind] = forces.errors(model, test)
        assert model.about["seconds"] > 0
    assert forces.gain(found) > 3, found
    assert forces.gain(found, "energy_mae") > 1
    assert found[EF]["force_cosine"] > max(0.95, found[E]["force_cosine"])


def test_errors_are_those_of_the_predictions_by_hand():
    data = load_bundled().select(heavy_atoms=1, per_molecule=5)
    model = ANIModel.create("HCNO", seed=3, hidden=[8])
    found = forces.errors(model, data)
    predicted = model.predict(data, forces=True)
    force = (predicted.forces - data.forces) * 627.5094738898777
    energy = (predicted.energies - data.energies) * 627.5094738898777
    own = np.concatenate(
        [energy[data.molecule == m] - energy[data.molecule == m].mean() for m in range(3)]
    )
    assert found["n"] == 15
    assert found["force_mae"] == pytest.approx(np.abs(force).mean(), rel=1e-5)
    assert found["force_rmse"] == pytest.approx((force**2).mean() ** 0.5, rel=1e-5)
    assert found["energy_mae"] == pytest.approx(np.abs(energy).mean())
    assert found["relative_mae"] == pytest.approx(np.abs(own).mean())


def test_the_splits_share_no_molecule_or_no_conformer():
    new = Split.of("molecule", 10)
    parts = [set(np.unique(p.molecule)) for p in (new.training, new.validation, new.test)]
    assert [len(p) for p in parts] == [50, 6, 7]
    assert len(set.union(*parts)) == 63
    known = Split.of("conformer", 10)
    assert len(np.unique(known.training.molecule)) == 63
    some = of_molecules(new.training, 12)
    assert len(np.unique(some.molecule)) == 12
    assert some.elements == new.training.elements
    assert set(some.molecule) <= parts[0]


def test_dynamics_begin_at_the_lowest_conformer_of_each_molecule():
    data = load_bundled().select(per_molecule=20)
    chosen = lowest(data)
    assert chosen.molecule.tolist() == sorted(set(data.molecule.tolist()))
    expected = [data.energies[data.molecule == m].min() for m in chosen.molecule]
    assert chosen.energies.tolist() == expected


def test_the_study_leaves_tables_and_figures_and_goes_on_from_what_is_finished(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(forces, "QUICK", TINY)
    monkeypatch.setattr(forces, "MODEL", {"hidden": [8]})
    folder = tmp_path / "study"

    def fail(*args, **how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(forces, "survival_times", fail)
        with pytest.raises(KeyboardInterrupt):
            forces.run(folder, quick=True, threads=1)
    monkeypatch.setattr(forces, "train", fail)  # all trainings are finished
    result = forces.run(folder, quick=True, threads=1)
    told = capsys.readouterr().out
    assert json.loads((folder / "result.json").read_text())["of_each"] == result["of_each"]
    for figure in ("force_parity", "force_error_by_molecules", "survival"):
        assert (folder / "figures" / f"{figure}.png").stat().st_size > 5000
    report = (folder / "report.md").read_text()
    assert set(result["of_each"]) == {"CO", "C=CC", "CC#N", "NC=O", "CNC", "CCCO", "CC(=O)O"}
    for text in ("By molecule", "ANI-1x, published", "What one learns", "| CC(=O)O "):
        assert text in report
        assert text in told
    assert list(result["by_molecules"]) == ["12", "50"]
    assert len(result["dynamics"]["molecules"]) == 3
    assert [len(runs) for runs in result["dynamics"][E]] == [2, 2, 2]
    with pytest.raises(SettingsError, match="finished"):
        forces.run(folder, quick=True)


def result_of(known: tuple[float, float], new: tuple[float, float], kept: int) -> dict:
    """A result with these force errors (without, with forces), and ``kept`` of 4 runs whole."""

    def pair(values: tuple[float, float]) -> dict:
        return {
            kind: {**dict.fromkeys(COLUMNS, 2.0), "force_mae": v}
            for kind, v in zip((E, EF), values, strict=True)
        }

    runs = [[None] * kept + [100.0] * (4 - kept)]
    return {
        "known_molecules": pair(known),
        "new_molecules": pair(new),
        "by_molecules": {"12": pair((20.0, 2 * new[1])), "50": pair(new)},
        "dynamics": {E: [[100.0] * 4], EF: runs},
    }


def test_what_one_learns_follows_from_the_numbers():
    little = " ".join(learnt(result_of((10.0, 2.0), (10.0, 5.0), 4)))
    assert "5.0 times (to 2.00" in little
    assert "2.0 times (to 5.00" in little
    assert "below 3 times, and on known ones" in little
    assert "more molecules lower it" in little
    assert "100% of the runs" in little
    assert "lower the force error 5.0 times" in little
    worse = " ".join(learnt(result_of((10.0, 2.0), (5.0, 10.0), 4)))
    assert "they raise the force error 2.0 times (to 10.00)" in worse
    much = " ".join(learnt(result_of((10.0, 2.0), (10.0, 3.0), 0)))
    assert "below 3 times" not in much
    assert "no molecule hold" in much
