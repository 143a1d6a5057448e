"""The benefit of training on forces, for known molecules and for new ones.

Two potentials with the same networks learn the bundled HCNO data, one from energies alone and one
from energies and forces, for about the same time. Their errors are compared on new conformers of
molecules in the training (split by conformer) and on molecules that are not (split by molecule,
by the lists that come with the data); then molecules that no training saw move at 300 K with both,
and have to hold together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase
import numpy as np
from tqdm import tqdm

from anipot.config import DataSettings
from anipot.data.conformers import Conformers
from anipot.data.division import divide, select
from anipot.data.published.bundled import load_bundled
from anipot.evaluation.history import History
from anipot.potential.base import Potential
from anipot.potential.model import ANIModel
from anipot.simulation.structures import structures
from anipot.studies.bond_survival import Dynamics, survival_times
from anipot.studies.common import Study, finished
from anipot.studies.forces_figures import curve_figure, parity, survival_figure
from anipot.studies.forces_report import TRAININGS, gain, learnt
from anipot.system.options import checked
from anipot.training.trainer import ANITrainer, evaluate

#: What both trainings share, beside the defaults. Chosen on the six validation molecules, never
#: on the test molecules. There, with forces of weight 1, one seed and 24 to 30 epochs (mean of two
#: seeds: 16; energies only: 60): MAE of energies, of relative energies and of forces at the epoch
#: kept, and of forces at the last epoch, kcal/mol (/angstrom):
#:
#: | options                                      | energy | relative | force | last |
#: |----------------------------------------------|--------|----------|-------|------|
#: | defaults                                     | 12.7   | 3.2      | 13.7  | 10.5 |
#: | l2=1                                         | 13.4   | 2.7      | 10.3  | 9.5  |
#: | dropout=0.1                                  | 13.4   | 2.6      | 11.3  | 9.0  |
#: | hidden=48,32                                 | 11.7   | 3.0      | 13.6  | 10.2 |
#: | half as many AEV terms (cover, 8, 2 and 4)   | 11.4   | 4.0      | 15.5  | 18.7 |
#: | normalize_aevs                               | 10.6   | 2.6      | 9.5   | 8.1  |
#: | normalize_aevs, l2=1                         | 12.9   | 2.2      | 8.5   | 7.7  |
#: | the same and dropout=0.2                     | 11.4   | 2.7      | 11.4  | 8.4  |
#: | the same without dropout, mean of two seeds  | 11.2   | -        | 8.7   | -    |
#: | normalize_aevs, l2=3, energy_weight=0.1      | 10.1   | 2.2      | 8.5   | 8.8  |
#: | normalize_aevs, l2=10                        | 5.1    | 2.9      | 13.4  | 13.1 |
#: | normalize_aevs, l2=3, force_weight=0.1       | 4.4    | 3.5      | 16.4  | 11.9 |
#: | the same, force_weight=0.3, radial cutoff 4  | 8.0    | 3.0      | 13.6  | 10.5 |
#: | normalize_aevs, energies only                | 5.1    | 2.9      | 16.3  | -    |
MODEL: dict[str, Any] = {}
TRAINING: dict[str, Any] = {"normalize_aevs": True, "l2": 1.0}

#: Errors of the published ANI-1x ensemble on this data (the data's README), kcal/mol and
#: kcal/mol/angstrom. It was trained on 5 million conformers of more than 50,000 molecules.
ANI1X = ["(all of the data)", "ANI-1x, published", "0.72", "1.42", "-", "3.64", "-", "-"]

#: What ``errors`` says, and the head of its column.
COLUMNS = {
    "energy_mae": "energy MAE",
    "energy_rmse": "RMSE",
    "relative_mae": "relative MAE",
    "force_mae": "force MAE",
    "force_rmse": "RMSE",
    "force_cosine": "cosine",
}


@dataclass(frozen=True)
class Size:
    """Size of the study: conformers of a molecule (None: all), epochs with forces, molecules of the
    smaller trainings, molecules that move, runs of each, and how they move.
    """

    per_molecule: int | None = None
    epochs: int = 24
    fewer_molecules: tuple[int, ...] = (12, 25)
    moving: int = 10
    runs: int = 3
    dynamics: Dynamics = field(default_factory=Dynamics)


#: To see in a minute or two how it goes.
QUICK = Size(40, 12, (12,), 4, 1, Dynamics(time=500.0))


Pair = dict[str, ANIModel]


def run(
    folder: str | Path | None = None, *, quick: bool = False, threads: int | None = None
) -> dict[str, Any]:
    """The whole study; returns what ``result.json`` holds. ``quick``: reduced, as QUICK says."""
    size = QUICK if quick else Size()
    with Study("forces", folder, {"quick": quick}) as study:
        known, new = (Split.of(by, size.per_molecule) for by in ("conformer", "molecule"))
        study.say(known.describe() + "\n" + new.describe())
        pairs = [train_both(study, split, size, threads) for split in (known, new)]
        result: dict[str, Any] = {
            "known_molecules": {k: errors(p, known.test) for k, p in pairs[0].items()},
            "new_molecules": {k: errors(p, new.test) for k, p in pairs[1].items()},
            "seconds": {k: p.about["seconds"] for k, p in pairs[1].items()},
            "of_each": by_molecule(pairs[1], new.test),
        }
        tell_errors(study, result)
        study.figure(
            parity(pairs[1], new.test),
            "force_parity",
            "Force components on new molecules, predicted against reference.",
        )
        result["by_molecules"] = curve(study, new, size, threads, result["new_molecules"])
        study.figure(
            curve_figure(result["by_molecules"], result["known_molecules"]),
            "force_error_by_molecules",
            "Force error on new molecules against the number of molecules in the training.",
        )
        result["dynamics"] = dynamics(study, pairs[1], new, size)
        study.figure(
            survival_figure({k: result["dynamics"][k] for k in TRAININGS}, size.dynamics.time),
            "survival",
            "Runs in which no bond has exceeded 1.5 times its first length, against time.",
        )
        study.finish(result, learnt(result))
    return result


# ---- training and errors -------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """The bundled data in three parts, by conformer or by molecule (its own lists)."""

    by: str
    training: Conformers
    validation: Conformers
    test: Conformers

    @classmethod
    def of(cls, by: str, per_molecule: int | None = None) -> Split:
        """``per_molecule``: at most so many conformers of each molecule."""
        settings = checked(DataSettings, {"split": by, "per_molecule": per_molecule})
        data = select(load_bundled(), settings)
        return cls(by, *divide(data, settings).take(data))

    def describe(self) -> str:
        parts = {
            name: f"{len(part):,} {name} conformers of {len(np.unique(part.molecule))} molecules"
            for name, part in vars(self).items()
            if name != "by"
        }
        return f"- split by {self.by}: {', '.join(parts.values())}"


def train(
    kind: str, training: Conformers, validation: Conformers, epochs: int, threads: int | None = None
) -> ANIModel:
    """A potential trained on what ``kind``, a key of TRAININGS, says; ``epochs`` with forces."""
    force_weight, times = TRAININGS[kind]
    model = ANIModel.create(training.elements, **MODEL)
    trainer = ANITrainer(
        model, **TRAINING, epochs=round(epochs * times), force_weight=force_weight, threads=threads
    )
    with tqdm(total=trainer.settings.epochs, unit=" epochs", leave=False, disable=None) as bar:

        def shown(history: History) -> None:
            bar.update(len(history) - bar.n)

        history = trainer.train(training, validation, early_stop=False, on_epoch=shown, quiet=True)
    finished(history)
    model.about["seconds"] = sum(history["seconds"])
    return model


def errors(potential: Potential, data: Conformers) -> dict[str, float]:
    """Errors of energies, kcal/mol, and of force components, kcal/mol/angstrom, on ``data``."""
    found = evaluate(potential, data).in_unit("kcal/mol")
    relative = found.relative
    assert found.forces is not None
    assert relative is not None
    energy, forces = found.energy, found.forces.components(found.scale)
    return {
        "n": len(found),
        "energy_mae": energy.mae,
        "energy_rmse": energy.rmse,
        "relative_mae": relative.mae,
        "force_mae": forces.mae,
        "force_rmse": forces.rmse,
        "force_cosine": found.forces.cosine,
    }


def of_molecules(data: Conformers, number: int, seed: int = 0) -> Conformers:
    """The conformers of ``number`` molecules drawn at random, of which some have each element."""
    rng = np.random.default_rng(seed)
    present = np.unique(data.molecule)
    while True:
        part = data.take(np.isin(data.molecule, rng.permutation(present)[:number]))
        if part.elements == data.elements:
            return part


def lowest(data: Conformers) -> Conformers:
    """Of each molecule the conformer of lowest energy, in the order of the data."""
    assert data.energies is not None
    order = np.argsort(data.energies, kind="stable")
    return data.take(np.sort(order[np.unique(data.molecule[order], return_index=True)[1]]))


# ---- the parts of the study ----------------------------------------------------------------------


def train_both(study: Study, split: Split, size: Size, threads: int | None) -> Pair:
    """The two potentials of a split, from the study's folder where they are there already."""
    pair = {}
    for kind in TRAININGS:
        potential = study.potential(
            f"{_stem(kind)}-by-{split.by}",
            lambda kind=kind: train(  # type: ignore[misc]
                kind, split.training, split.validation, size.epochs, threads
            ),
        )
        assert isinstance(potential, ANIModel)
        pair[kind] = potential
    return pair


def by_molecule(pair: Pair, test: Conformers) -> dict[str, dict[str, dict[str, float]]]:
    """The errors of both potentials on each molecule."""
    found = {}
    for m in np.unique(test.molecule):
        own = test.take(test.molecule == m)
        found[_name(test, m)] = {kind: errors(p, own) for kind, p in pair.items()}
    return found


def tell_errors(study: Study, result: Mapping[str, Any]) -> None:
    """The two tables of errors."""

    def rows(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[list[str]]:
        return [
            [who, kind, *(_number(e[c]) for c in COLUMNS)]
            for who, pair in found.items()
            for kind, e in pair.items()
        ]

    both = {f"{who} molecules": result[f"{who}_molecules"] for who in ("known", "new")}
    study.table(
        ["new conformers of", "trained on", *COLUMNS.values()],
        [*rows(both), ANI1X],
        "Errors on test conformers: energies in kcal/mol, relative ones against the mean of their "
        "molecule, force components in kcal/mol/angstrom, mean cosine of the angle between "
        "predicted and reference force:",
    )
    study.table(
        ["new molecule", "trained on", *COLUMNS.values()], rows(result["of_each"]), "By molecule:"
    )
    seconds = ", ".join(f"{kind} {t:.0f} s" for kind, t in result["seconds"].items())
    study.say(f"Time of the trainings that the new molecules test: {seconds}.")


def curve(
    study: Study, split: Split, size: Size, threads: int | None, whole: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Errors on the new molecules by number of molecules trained on; ``whole``: with all."""
    found: dict[str, dict[str, Any]] = {}
    total = len(np.unique(split.training.molecule))
    for number in size.fewer_molecules:
        part = of_molecules(split.training, number)
        # As many updates as with all molecules: the data is all that differs.
        epochs = round(size.epochs * len(split.training) / len(part))
        found[str(number)] = {
            kind: study.once(
                f"{_stem(kind)}-{number}-molecules",
                lambda kind=kind, part=part, epochs=epochs: errors(  # type: ignore[misc]
                    train(kind, part, split.validation, epochs, threads), split.test
                ),
            )
            for kind in TRAININGS
        }
    found[str(total)] = dict(whole)
    study.table(
        ["molecules trained on", *(f"force MAE, {k}" for k in TRAININGS), "times lower"],
        [
            [n, *(_number(e[k]["force_mae"]) for k in TRAININGS), f"{gain(e):.1f}"]
            for n, e in found.items()
        ],
        "Force error on the new molecules, kcal/mol/angstrom:",
    )
    return found


def dynamics(study: Study, pair: Pair, split: Split, size: Size) -> dict[str, Any]:
    """When the first bond of each run breaks, fs (none: null), of molecules never trained on.

    The test molecules, then validation molecules until there are ``size.moving`` of them, each from
    its conformer of lowest energy.
    """
    starts = [lowest(part) for part in (split.test, split.validation)]
    chosen = [s for part in starts for s in structures(part)][: size.moving]
    names = [atoms.info["molecule"].rsplit("/", 1)[-1] for atoms in chosen]
    found: dict[str, Any] = {"molecules": names, "n_test": min(len(starts[0]), size.moving)}
    for kind, potential in pair.items():
        found[kind] = study.once(
            f"dynamics-{_stem(kind)}",
            lambda potential=potential: _runs(potential, chosen, size),  # type: ignore[misc]
        )
    rows = []
    for k, name in enumerate(names):
        rows.append([name, *(_kept(found[kind][k : k + 1]) for kind in TRAININGS)])
        rows[-1] += [_first(found[kind][k]) for kind in TRAININGS]
    how = size.dynamics
    study.table(
        ["molecule", *(f"whole, {k}" for k in ("E", "E+F")), *(f"first break, {k}" for k in
         ("E", "E+F"))],
        [*rows, ["all", *(_kept(found[kind]) for kind in TRAININGS), "", ""]],
        f"Langevin dynamics of {len(names)} molecules never trained on ({found['n_test']} test "
        f"molecules, {len(names) - found['n_test']} validation molecules; runs of each: "
        f"{size.runs}), {how.temperature:g} K, {how.time / 1000:g} ps in steps of "
        f"{how.timestep:g} fs. Runs in which "
        f"no bond exceeds {how.stretch:g} times its first length:",
    )  # fmt: skip
    return found


def _runs(potential: Potential, molecules: Sequence[ase.Atoms], size: Size) -> list[list[Any]]:
    how = size.dynamics
    with tqdm(total=how.steps, unit=" steps", leave=False, disable=None) as bar:

        def shown(step: int) -> None:
            bar.update(step - bar.n)

        times = survival_times(potential, [*molecules] * size.runs, how, on_step=shown)
    by_run = times.reshape(size.runs, len(molecules)).T
    return [[None if np.isinf(t) else float(t) for t in row] for row in by_run]


def _stem(kind: str) -> str:
    return kind.replace(" ", "-")


def _name(data: Conformers, molecule: int) -> str:
    return data.molecule_names[molecule].rsplit("/", 1)[-1]


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def _kept(runs: Sequence[Sequence[float | None]]) -> str:
    times = [t for row in runs for t in row]
    return f"{sum(t is None for t in times)}/{len(times)}"


def _first(times: Sequence[float | None]) -> str:
    broken = [t for t in times if t is not None]
    return f"{min(broken) / 1000:.3f} ps" if broken else "-"
