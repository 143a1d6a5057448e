"""Saved potentials, checkpoints of trainings, and archives that downloads bring."""

from __future__ import annotations

import bz2
import gzip
import io
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import anipot
from anipot.aev.settings import AEVSettings
from anipot.data.published import fetch_ani1
from anipot.errors import PotentialError
from anipot.evaluation.calibration import Calibration, calibrated
from anipot.evaluation.description import describe
from anipot.formats import published
from anipot.potential.model import ANIModel
from anipot.training.trainer import ANITrainer
from benchmarks.fuzz.data_kinds import _ani1, _dataset
from benchmarks.fuzz.kinds import Kind, always, potential_digest


def _model(seed: int = 0, **options: Any) -> ANIModel:
    return ANIModel.create("HCO", hidden=[4, 3], seed=seed, **options)


def _reads(**hints: Any) -> Callable[[Path], Any]:
    """As ``anipot potentials info`` reads it."""

    def read(path: Path) -> Any:
        potential = anipot.load(path, **hints)
        describe(potential)
        with suppress(PotentialError):  # which knows of no file
            calibrated(potential)
        return potential_digest(potential)

    return read


# ---- anipot's own --------------------------------------------------------------------------------


def _ensemble(path: Path) -> None:
    """With all that a file may tell: a repulsion, what is known of data, a calibration."""
    members = [_model(seed, repulsion="zbl") for seed in range(2)]
    ensemble = anipot.ANIEnsemble(members)
    rng = np.random.default_rng(0)
    disagreement = rng.uniform(0.1, 1, 40)
    known = Calibration(disagreement, disagreement * rng.normal(size=40), n_atoms=np.full(40, 5))
    ensemble.about.update(calibrated=known.about(), trained_on="made")
    ensemble.save(path)


# ---- NeuroChem -----------------------------------------------------------------------------------

_PARAMS = """TM = 1
Rcr = 5.2000e+00
Rca = 3.5000e+00
EtaR = [1.6000000e+01]
ShfR = [9.0000000e-01,2.1000000e+00]
Zeta = [3.2000000e+01]
ShfZ = [1.9634954e-01,1.3744468e+00]
EtaA = [8.0000000e+00]
ShfA = [9.0000000e-01,1.5500000e+00]
Atyp = [O,H]
"""


def _neurochem(folder: Path) -> None:
    rng = np.random.default_rng(0)
    inside = folder / "tiny"
    for member in range(2):
        networks = inside / f"train{member}" / "networks"
        networks.mkdir(parents=True)
        for element in "OH":
            text = f"inputsize=16;\natom_net {element} $\n"
            for k, (fan_in, nodes, kind) in enumerate(((16, 3, 9), (3, 1, 6)), start=1):
                name = f"ANN-{element}.nnf-l{k}"
                text += (
                    f"layer [\nnodes={nodes};\nactivation={kind};\ntype=0;\nblocksize={fan_in};\n"
                    f"weights=FILE:{name}.wparam[{nodes * fan_in}];\n"
                    f"biases=FILE:{name}.bparam[{nodes}];\n]\n"
                )
                for ending, size in (("wparam", nodes * fan_in), ("bparam", nodes)):
                    numbers = rng.normal(size=size).astype("<f4")
                    (networks / f"{name}.{ending}").write_bytes(numbers.tobytes())
            content = (text + "\n $\x00").encode()
            packed = f"{len(content)}=\n".encode() + bz2.compress(content)
            (networks / f"ANN-{element}.nnf").write_bytes(packed)
    (inside / "tiny.params").write_text(_PARAMS)
    (inside / "sae_linfit.dat").write_text("O,0=-75.200000000000\nH,1=-0.600000000000\n")
    (folder / "fuzzed.info").write_text("tiny/tiny.params\ntiny/sae_linfit.dat\ntiny/train\n2\n")


# ---- files of torch.save -------------------------------------------------------------------------


def _torch(contents: Callable[[], Any], new: bool = True) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        out = io.BytesIO()
        torch.save(contents(), out, _use_new_zipfile_serialization=new)
        path.write_bytes(out.getvalue())

    return make


def _without_sums(path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        _torch(_notebook)(path)
    finally:
        torch.serialization.set_crc32_options(before)


def _torchani() -> Any:
    return _model().to_torchani().state_dict()


def _notebook() -> Any:
    torch.manual_seed(0)
    length = AEVSettings.ani1x().length
    networks = [
        torch.nn.Sequential(torch.nn.Linear(length, 3), torch.nn.CELU(), torch.nn.Linear(3, 1))
        for _ in range(4)
    ]
    return torch.nn.ModuleList(networks).state_dict()


_HINTS = {
    "aev": "ani1x",
    "activation": "celu",
    "elements": "HCNO",
    "self_energies": {"H": -0.6, "C": -38.1, "N": -54.7, "O": -75.2},
}

_TRAINING = {"epochs": 2, "batch_size": 4, "threads": 1, "seed": 0}


def _trainer() -> ANITrainer:
    model = ANIModel.create("HCO", hidden=[2], seed=0)
    return ANITrainer(model, **_TRAINING)  # type: ignore[arg-type]


def _parts() -> tuple[anipot.Conformers, anipot.Conformers]:
    data = _dataset(complete=True)
    return data.take(np.array([0, 1, 2, 3, 4])), data.take(np.array([5]))


def _checkpoint(path: Path) -> None:
    _trainer().train(*_parts(), checkpoint=path, quiet=True)


def _resume(path: Path) -> Any:
    """As ``anipot train --resume`` goes on from a checkpoint, here of a finished training."""
    trainer = _trainer()
    trainer.train(*_parts(), checkpoint=path, resume=True, quiet=True)
    return potential_digest(trainer.model), trainer.history.to_dict()


# ---- what downloads bring ------------------------------------------------------------------------


def _zoo(path: Path) -> None:
    potential = published.named("ani1x")
    with zipfile.ZipFile(path, "w") as archive:
        for name in published._sums(potential):
            archive.writestr(zipfile.ZipInfo(f"ani-model-zoo-1/resources/{name}"), b"made")


def _unpack_zoo(path: Path) -> Any:
    """Never whole: the published files, whose sums are known, are not made here."""
    # In anipot this is the temporary file of a download, which is always one.
    content = path.read_bytes() if path.is_file() else b""
    with tempfile.TemporaryDirectory() as folder, io.BytesIO(content) as file:
        return published._unpack(published.named("ani1x"), file, Path(folder), str(path))


def _ani1_archive(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ani_gdb_s01.h5"
        _ani1(file)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("ANI-1_release/readme.txt"), io.BytesIO(b""))
            about = tarfile.TarInfo("ANI-1_release/ani_gdb_s01.h5")
            about.size = file.stat().st_size
            tar.addfile(about, io.BytesIO(file.read_bytes()))
        path.write_bytes(gzip.compress(out.getvalue(), mtime=0))


def _fetch(path: Path) -> Any:
    out = path.with_name("out.h5")
    known = dict(fetch_ani1.CONFORMERS)
    fetch_ani1.CONFORMERS.clear()  # these are not the published ones
    try:
        fetch_ani1.fetch_ani1((1, 1), out, archive=path)
    finally:
        fetch_ani1.CONFORMERS.update(known)
    return out.read_bytes()


# ---- kinds ---------------------------------------------------------------------------------------

_INFO = ("potentials info @",)


def _file(
    name: str, target: str, make: Callable[[Path], None], read: Callable[[Path], Any], **more: Any
) -> Kind:
    return Kind(name, target, lambda folder: make(folder / target), read, **more)


def kinds() -> list[Kind]:
    return [
        _file("potential", "fuzzed.safetensors", lambda path: _model().save(path), _reads(),
              summed=always, weight=2, commands=_INFO),
        _file("ensemble", "fuzzed.safetensors", _ensemble, _reads(), summed=always, weight=2,
              commands=_INFO),
        Kind("neurochem", "fuzzed.info", _neurochem, _reads(), weight=4,
             summed=lambda name: name.endswith(".nnf"), commands=_INFO),
        _file("torchani.pt", "fuzzed.pt", _torch(_torchani), _reads(), summed=always,
              commands=_INFO),
        _file("notebook.pt", "fuzzed.pt", _torch(_notebook), _reads(**_HINTS), summed=always),
        _file("legacy.pt", "fuzzed.pth", _torch(_notebook, new=False), _reads(**_HINTS)),
        _file("without CRCs.pt", "fuzzed.pt", _without_sums, _reads(**_HINTS)),
        _file("checkpoint.pt", "fuzzed_checkpoint.pt", _checkpoint, _resume, summed=always,
              costly=True),
        _file("zoo.zip", "fuzzed.zip", _zoo, _unpack_zoo, weight=0.3, refused=True),
        _file("ANI-1.tar.gz", "fuzzed.tar.gz", _ani1_archive, _fetch, weight=0.3),
    ]  # fmt: skip
