"""The materials table: anipot beside seven published potentials, trained on the same DFT data.

Zuo et al. (J. Phys. Chem. A 2020, 124, 731) trained and tested potentials on the same crystals of
six elements: ground states, strained, surfaces, vacancies, and snapshots of dynamics up to twice
the melting point. For each element EL with EL_training.extxyz and EL_test.extxyz in a folder, this
study trains a potential on the first and evaluates it once on the second.

One rule holds for every element: ``potential``, ``TRAINING``, ``STAGES`` and ``EPOCHS`` below. It
was chosen on the training files alone: RMSE on the first of five folds, of one potential trained on
the others, in meV/atom and eV/angstrom; ``folds=5`` measures the whole procedure so.

==========================================================  ===========  ===========
cutoffs, columns, activation, epochs, energy weight : 0.1   Li           Si
==========================================================  ===========  ===========
5.0, 50, CELU, 50 epochs of 30                              1.84, 0.104
5.0, 50, SiLU, 50 epochs of 30                              2.37, 0.053
5.5, 62, SiLU, 60 epochs of 30                                           6.82, 0.248
5.0, 50, CELU, 40 epochs of 0.3 and 20 of 100               1.20, 0.042
5.0, 50, SiLU, 40 epochs of 0.3 and 20 of 100               1.15, 0.029  8.63, 0.139
5.5, 62, SiLU, 50 epochs of 3                               0.90, 0.027  6.89, 0.160
5.5, 62, SiLU, 50 epochs of 3 and 30 of 100                 0.86, 0.032  4.22, 0.173
==========================================================  ===========  ===========

(Angular cutoff in angstrom; the radial one is 6.5. The last two have networks of 48-48, the others
of 32-32; columns is the length of the AEV.)
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anipot.aev.settings import AEVSettings
from anipot.config import TrainingSettings
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.errors import DataError, SettingsError
from anipot.evaluation.history import History
from anipot.evaluation.metrics import Evaluation
from anipot.formats.load import load
from anipot.potential.base import Potential
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.studies.common import Study, finished
from anipot.studies.materials_figures import parity
from anipot.system.files import write_text
from anipot.system.threads import threads as using_threads
from anipot.training.trainer import ANITrainer, evaluate

#: Published energy RMSE on the test files, meV/atom: GAP to qSNAP are from Zuo et al.
PUBLISHED = {
    "GAP": {"Ni": 0.62, "Cu": 0.56, "Li": 0.63, "Mo": 3.55, "Si": 4.18, "Ge": 4.47},
    "MTP": {"Ni": 0.74, "Cu": 0.52, "Li": 0.66, "Mo": 3.89, "Si": 3.02, "Ge": 3.68},
    "NNP": {"Ni": 2.25, "Cu": 1.68, "Li": 0.98, "Mo": 5.67, "Si": 9.95, "Ge": 10.95},
    "SNAP": {"Ni": 1.17, "Cu": 0.87, "Li": 1.13, "Mo": 9.06, "Si": 8.06, "Ge": 10.96},
    "qSNAP": {"Ni": 1.04, "Cu": 1.16, "Li": 0.85, "Mo": 3.96, "Si": 6.28, "Ge": 10.55},
    "3-body ACE": {"Ni": 1.74, "Cu": 1.19, "Li": 1.23, "Mo": 4.00, "Si": 5.16, "Ge": 11.62},
    "MILAD": {"Ni": 1.39, "Cu": 0.96, "Li": 0.64, "Mo": 5.79, "Si": 5.65, "Ge": 5.47},
}

MEMBERS = 4

TRAINING = TrainingSettings(
    batch_size=4,
    force_weight=0.1,
    per_atom=True,
    target_unit="eV",
    normalize_aevs=True,
    threads=1,
)

#: Forces first: a crystal has one energy and some 200 components of forces, which say more of the
#: potential. Then energies, at lower rates: from the start, so large a weight spoils the forces.
STAGES: tuple[dict[str, float], ...] = (
    {"energy_weight": 3.0, "learning_rate": 5e-3},
    {"energy_weight": 100.0, "learning_rate": 1e-3},
)

#: Epochs of each stage.
EPOCHS = (120, 60)


def potential(elements: Sequence[str], seed: int) -> ANIModel:
    """An untrained member: small networks, for there are few crystals, and long cutoffs."""
    aev = AEVSettings.cover(elements, 6.5, 5.5, radial_terms=14, angular_terms=8, angle_terms=6)
    return ANIModel.create(
        elements, seed=seed, aev=aev, hidden=(48, 48), activation="silu", output_unit="eV"
    )


def run(
    data: str | Path,
    elements: Sequence[str] | None = None,
    folder: str | Path | None = None,
    *,
    threads: int = 1,
    members: int = MEMBERS,
    epochs: Sequence[int] = EPOCHS,
    folds: int | None = None,
) -> dict[str, Any]:
    """Train, test and tabulate; returns what result.json holds.

    ``data``: the folder of the files. ``elements``: of which files; all that are there if None.
    ``threads`` members are trained side by side, each in a process of its own. ``folds``: instead
    of the test, errors on held-out folds of the training files, by the same procedure; test files
    are not read. Raises DataError for a missing file and for one without energies or forces.
    """
    if members < 1:
        raise SettingsError(f"members must be 1 or more, not {members}")
    files = training_files(Path(data), elements, tested=folds is None)
    crystals = {name: _read(file) for name, file in files.items()}
    options = {
        "members": members,
        "epochs": epochs,
        "folds": folds,
        "training_data": {name: c.content_hash() for name, c in crystals.items()},
    }
    with Study("materials", folder, options) as study:
        study.say(
            f"Mean of {members}, trained for {' + '.join(map(str, epochs))} epochs each, by one "
            "rule for all elements; "
            + ("one test." if folds is None else f"tested on {folds} folds of the training data.")
        )
        how: Any = {"members": members, "epochs": tuple(epochs), "threads": threads}
        if folds is not None:
            return _held_out(study, crystals, folds, how)
        results = {}
        for name, training in crystals.items():
            model = ensemble(study, name, training, **how)
            results[name] = {
                "training": study.once(f"{name}-training", partial(errors_on, model, training)),
                "cpu_seconds": sum(m.about["cpu_seconds"] for m in model.models),
                **test(study, name, Path(data) / f"{name}_test.extxyz", model),
            }
        _report(study, results)
        return results


def training_files(
    data: Path, elements: Sequence[str] | None = None, tested: bool = True
) -> dict[str, Path]:
    """The training files in a folder, by element. Raises DataError where one (or a test) lacks."""
    found = {
        file.name.removesuffix("_training.extxyz"): file
        for file in sorted(data.glob("*_training.extxyz"))
    }
    wanted = list(found) if elements is None else list(elements)
    if not wanted:
        raise DataError(f"{data} has no file such as Li_training.extxyz")
    files = {name: data / f"{name}_training.extxyz" for name in wanted}
    needed = [*files.values(), *(data / f"{name}_test.extxyz" for name in wanted if tested)]
    if lacking := [str(file) for file in needed if not file.is_file()]:
        raise DataError(f"there is no {' and no '.join(lacking)}")
    return files


def _read(file: Path) -> Conformers:
    crystals = load_dataset(file)
    for label in ("energies", "forces"):
        if not crystals.has(label).all():
            raise DataError(f"{file}: the materials table needs {label} of every crystal")
    return crystals


# ---- training ------------------------------------------------------------------------------------


def ensemble(
    study: Study,
    name: str,
    training: Conformers,
    *,
    members: int,
    epochs: Sequence[int],
    threads: int,
) -> Potential:
    """The mean of ``members`` potentials, which differ in their seeds."""
    paths = [study.folder / "members" / f"{name}-{k + 1}.safetensors" for k in range(members)]

    def train() -> Potential:
        left = [(training, k, epochs, path) for k, path in enumerate(paths) if not path.exists()]
        workers = min(threads, len(left))
        if workers < 2:
            for job in left:
                train_member(*job)
        else:
            # A fork would copy locks that the parent's threads hold.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                try:
                    for done in as_completed([pool.submit(train_member, *job) for job in left]):
                        done.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        models = [load(path) for path in paths]
        return models[0] if members == 1 else ANIEnsemble(m for k in models for m in k.models)

    return study.potential(name, train)


def train_member(training: Conformers, seed: int, epochs: Sequence[int], path: Path) -> None:
    """Train a member on all crystals, and save it with the CPU time that this took.

    Trainers keep the weights of the epoch with the lowest error on a second part. With rates that
    end at 0 that is one of the last, whatever the part: so it is every fifth of the crystals
    trained on, and none is spared. The few of a kind in a small part would choose worse.
    """
    torch.set_num_threads(1)
    watched = training.take(np.arange(0, len(training), 5))
    model = potential(training.elements, seed)
    began = time.process_time()
    for n, (stage, length) in enumerate(zip(STAGES, epochs, strict=True), start=1):
        trainer = ANITrainer(model, TRAINING, epochs=length, seed=seed, **stage)
        told = partial(_tell, f"{path.stem}, stage {n} of {len(STAGES)}", length)
        finished(trainer.train(training, watched, early_stop=False, quiet=True, on_epoch=told))
    seconds = round(time.process_time() - began, 1)
    for about in (model.about, model.about["started_from"]):  # of the two stages
        # Errors on crystals trained on would look like those of a validation.
        about.pop("errors_kcalmol")
        about["data"].pop("validation")
    model.save(path, cpu_seconds=seconds)


def _tell(what: str, epochs: int, history: History) -> None:
    if len(history) % max(1, epochs // 5) == 0:
        print(f"  {what}: epoch {len(history)} of {epochs}", file=sys.stderr, flush=True)


# ---- errors --------------------------------------------------------------------------------------


def errors(evaluation: Evaluation) -> dict[str, float]:
    """RMSE of energies, meV/atom, and of components of forces, eV/angstrom."""
    evaluation = evaluation.in_unit("eV")
    assert evaluation.forces is not None
    return {
        "energy": evaluation.per_atom.rmse,
        "forces": evaluation.forces.components(evaluation.scale).rmse,
    }


def errors_on(model: Potential, crystals: Conformers) -> dict[str, float]:
    """``errors`` of a potential on crystals."""
    return errors(evaluate(model, crystals))


def test(study: Study, name: str, file: Path, model: Potential) -> dict[str, Any]:
    """Errors and speed on the test file, and how often it was evaluated.

    This function alone reads test files. It counts before it evaluates, so that neither a crash nor
    a second start with the same folder goes uncounted.
    """

    def once() -> dict[str, Any]:
        count = study.folder / "test_evaluations.json"
        counts = json.loads(count.read_text()) if count.exists() else {}
        counts[name] = counts.get(name, 0) + 1
        write_text(count, json.dumps(counts) + "\n")
        crystals = _read(file)
        found = evaluate(model, crystals).in_unit("eV")
        forces = found.forces
        assert forces is not None
        largest = crystals.take(np.array([int(np.argmax(crystals.n_atoms))]))
        return {
            "test": errors(found),
            "test_evaluations": counts[name],
            "test_crystals": len(crystals),
            "largest_test_crystal_atoms": int(largest.n_atoms[0]),
            "seconds_per_atom_and_step": seconds_per_atom(model, largest),
            # meV/atom and eV/angstrom, the reference first
            "energies": [
                e * 1000 * found.scale / found.n_atoms for e in (found.reference, found.predicted)
            ],
            "forces": [f.ravel() * found.scale for f in (forces.reference, forces.predicted)],
        }

    result: dict[str, Any] = study.once(f"{name}-test", once)
    return result


def seconds_per_atom(model: Potential, crystal: Conformers, steps: int = 20) -> float:
    """Median time of energy and forces of one crystal, per atom, on one thread.

    Atoms move by 0.01 angstrom between steps, as in dynamics.
    """
    assert crystal.cells is not None
    assert crystal.pbc is not None
    rng = np.random.default_rng(0)
    with using_threads(1):
        step = model.stepper(crystal.atomic_numbers, crystal.pbc[0])
        taken = []
        for _ in range(steps + 3):
            x = crystal.coordinates + rng.normal(scale=0.01, size=crystal.coordinates.shape)
            began = time.perf_counter()
            step(x, crystal.cells[0])
            taken.append(time.perf_counter() - began)
    return float(np.median(taken[3:])) / len(crystal.atomic_numbers)  # the first ones warm up


def _held_out(
    study: Study, crystals: dict[str, Conformers], folds: int, how: dict[str, Any]
) -> dict[str, Any]:
    """Errors on each fold of the training files, of a potential trained on the others."""
    results: dict[str, Any] = {}
    for name, training in crystals.items():
        results[name] = []
        for k, (rest, held) in enumerate(training.folds(folds)):
            part = f"{name}-fold{k + 1}"
            model = ensemble(study, part, rest, **how)
            found = study.once(part, partial(errors_on, model, held))
            results[name].append(found)
        columns = ["fold", f"{name} meV/atom", "eV/angstrom"]
        means = {key: np.mean([e[key] for e in results[name]]) for key in ("energy", "forces")}
        rows = [(str(k + 1), e) for k, e in enumerate(results[name])] + [("mean", means)]
        study.table(columns, [(n, f"{e['energy']:.2f}", f"{e['forces']:.3f}") for n, e in rows])
    study.finish({"held_out": results, "test_evaluations": dict.fromkeys(results, 0)}, [
        f"{name}: RMSE {np.mean([e['energy'] for e in r]):.2f} meV/atom (folds from "
        f"{min(e['energy'] for e in r):.2f} to {max(e['energy'] for e in r):.2f}) on crystals "
        "held out of the training file. No test file was read."
        for name, r in results.items()
    ])  # fmt: skip
    return results


# ---- what is shown -------------------------------------------------------------------------------


def _report(study: Study, results: dict[str, Any]) -> None:
    columns = ["RMSE on the test set"]
    for name in results:
        columns += [f"{name} meV/atom", "eV/angstrom", "s/atom/step"]
    rows = []
    for who, energies in PUBLISHED.items():
        given = [[f"{energies[n]:.2f}" if n in energies else "-", "-", "-"] for n in results]
        rows.append([who, *(cell for cells in given for cell in cells)])
    own = ["anipot"]
    for r in results.values():
        own += [f"{r['test']['energy']:.2f}", f"{r['test']['forces']:.3f}"]
        own.append(f"{r['seconds_per_atom_and_step']:.1e}")
    study.table(columns, [*rows, own])
    study.table(
        ["anipot", "training set", "test set", "test evaluations", "CPU min of training"],
        [
            [
                f"{name}, meV/atom",
                *(f"{r[part]['energy']:.2f}" for part in ("training", "test")),
                str(r["test_evaluations"]),
                f"{r['cpu_seconds'] / 60:.1f}",
            ]
            for name, r in results.items()
        ],
    )
    for name, r in results.items():
        study.figure(parity(name, r), f"{name}-parity", f"{name}: the test set")
    study.finish({"results": results}, [s for n, r in results.items() for s in learnt(n, r)])


def learnt(name: str, result: dict[str, Any]) -> list[str]:
    """Conclusions from the numbers of an element."""
    found, training = result["test"]["energy"], result["training"]["energy"]
    sentences = []
    others = {who: e[name] for who, e in PUBLISHED.items() if name in e}
    if others:
        better = [who for who, e in others.items() if e < found]
        sentences.append(
            f"{name}: with {found:.2f} meV/atom, {', '.join(better) or 'none'} of the "
            f"{len(others)} published potentials {'have' if len(better) > 1 else 'has'} a lower "
            f"error. It is {found / others['NNP']:.2f} times that of NNP, of the same family."
        )
    ratio = found / training
    sentences.append(
        f"{name}: the test error is {ratio:.1f} times that of the training crystals, so "
        + (
            "more crystals would help more than a more flexible potential."
            if ratio > 1.5
            else "what limits it is the potential and its training rather than the number of "
            "crystals."
        )
    )
    return sentences
