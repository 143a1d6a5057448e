"""What ``python -m benchmarks kills`` kills: small runs of commands that can be gone on with."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """Something that can be killed and gone on with.

    ``begin`` and ``go_on`` give the words of the command, from the number of the variant; both run
    in a folder of their own. ``results`` are the names there that it leaves.
    """

    name: str
    variants: int
    begin: Callable[[int, Path], list[str]]
    go_on: Callable[[int, Path, Path], list[str]]


_DATA = ["heavy_atoms=2", "per_molecule=20"]
_SMALL = ["hidden=8,4", "device=cpu", "threads=1", "batch_size=32", "checkpoint_minutes=0.001"]

#: Options of the trainings; the last streams from a store.
_TRAININGS = (
    ["epochs=8", "dtype=float64"],
    ["epochs=6", "force_weight=0.1", "clip=20", "normalize_aevs=true"],
    ["epochs=8", "dropout=0.2", "ema=0.9", "optimizer=adam", "patience=3"],
    ["epochs=4", "members=2", "by_folds=true"],
    ["epochs=6", "split=molecule"],
)

_TABLES = (
    {"rows": [{}, {"activation": "gelu"}], "seeds": 2},
    {"rows": [{}, {"batch_size": 64}], "seeds": 1,
     "tune": {"option": "learning_rate", "values": [1e-3, 1e-2], "updates": 12}},
)  # fmt: skip

#: The space of the searches; values as the storage has them.
_SPACE = {
    "training.learning_rate": [5e-4, 2e-3, 8e-3],
    "training.batch_size": [24, 48, 96],
    "model.hidden": [[8], [6, 4]],
}
STORED = {
    option: [json.dumps(v) if isinstance(v, list) else v for v in values]
    for option, values in _SPACE.items()
}

#: Trials of a search that is killed, and all there are.
TRIALS = 7
ALL_TRIALS = math.prod(map(len, _SPACE.values()))


def make_inputs(folder: Path) -> None:
    """Data files, tables, spaces and a structure."""
    from ase.build import molecule
    from ase.io import write

    from anipot.data.pack import pack
    from anipot.data.published.bundled import load_bundled

    folder.mkdir()
    data = load_bundled()
    small = data.select(heavy_atoms=2, per_molecule=20)
    small.save(folder / "small.npz")
    pack([folder / "small.npz"], folder / "small", progress=False)
    data.save(folder / "all.npz")
    for k in range(3):
        data.select(per_molecule=40 + 10 * k).save(folder / f"part-{k}.npz")
    pack([folder / "part-0.npz"], folder / "part-3", progress=False)
    files = {"data": {"files": [str(folder / "small.npz")]}}
    training = {"epochs": 4, "batch_size": 32, "checkpoint_minutes": 0.001, "device": "cpu"}
    base = {**files, "model": {"hidden": [8]}, "training": training}
    for k, table in enumerate(_TABLES):
        (folder / f"table-{k}.yaml").write_text(json.dumps({"base": base, **table}))
    options = {"base": base, "space": _SPACE, "pruning": False}
    (folder / "space.yaml").write_text(json.dumps(options))  # which is YAML, too
    write(folder / "molecule.xyz", molecule("CH3CH2OH"))


def _train(variant: int, inputs: Path) -> list[str]:
    data = [str(inputs / ("small" if variant == 4 else "small.npz"))]
    return ["train", *data, *_SMALL, *_TRAININGS[variant], "-o", "run"]


def _resume_train(variant: int, inputs: Path, folder: Path) -> list[str]:
    if (folder / "run" / "options.yaml").exists():
        return ["train", "--resume", "run"]
    return _train(variant, inputs)  # killed before there was a run


def _pack(variant: int, inputs: Path) -> list[str]:
    files = [inputs / "all.npz", *(inputs / f"part-{k}.npz" for k in range(3)), inputs / "part-3"]
    workers = str(2 if variant == 4 else 1)
    return ["data", "pack", *map(str, files), "-o", "store", "--workers", workers]


def _pack_again(variant: int, inputs: Path, folder: Path) -> list[str]:
    if (folder / "store").exists():  # killed after the end
        return ["data", "info", "store"]
    return _pack(variant, inputs)


def _table(variant: int, inputs: Path) -> list[str]:
    return ["iterate", str(inputs / f"table-{variant}.yaml"), "-o", "table"]


def _table_again(variant: int, inputs: Path, folder: Path) -> list[str]:
    return _table(variant, inputs)


def _search(variant: int, inputs: Path) -> list[str]:
    where = ["--storage", "sqlite:///trials.db"] if variant else []
    return ["search", str(inputs / "space.yaml"), "-t", str(TRIALS), "-o", "search", *where]


def _search_again(variant: int, inputs: Path, folder: Path) -> list[str]:
    return _search(variant, inputs)


def _md(variant: int, inputs: Path) -> list[str]:
    how = ["--nvt"] if variant == 1 else []
    out = "run.traj" if variant == 2 else "run.extxyz"
    numbers = ["--time", "150", "--every", "4", "--save-every", "20"]
    return ["md", "anipot-hcno", str(inputs / "molecule.xyz"), "-o", out, *numbers, *how]


def _md_again(variant: int, inputs: Path, folder: Path) -> list[str]:
    words = _md(variant, inputs)
    if (folder / "run.restart.npz").exists():
        return [*words, "--resume"]
    return [*words, "--overwrite"]  # killed before there was anything to go on from


KINDS = (
    Kind("trainings", len(_TRAININGS), _train, _resume_train),
    Kind("packs", 5, _pack, _pack_again),
    Kind("tables", len(_TABLES), _table, _table_again),
    Kind("searches", 2, _search, _search_again),
    Kind("md", 3, _md, _md_again),
)
