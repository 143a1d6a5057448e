"""NeuroChem's files: the format in which ANI-1x, ANI-1ccx and ANI-2x were published.

A ``.params`` file (constants of the AEV, order of elements), a ``sae_linfit.dat`` (self energies),
and one folder a member with a ``.nnf`` (layers) and raw ``.wparam`` and ``.bparam`` for each
element. The texts are parsed and never evaluated; what a file claims is bounded before anything is
made of it, and names in files lead nowhere outside the potential's own folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import torch

from anipot.aev.computer import AEVComputer
from anipot.errors import PotentialError, SettingsError
from anipot.formats.neurochem_constants import read_params, read_self_energies
from anipot.formats.neurochem_networks import Budget, read_networks
from anipot.formats.published import recognised
from anipot.formats.safe_reading import inside, naming, read_text
from anipot.networks.atomic import DTYPES
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

#: More than any real potential has: what a damaged or hostile file can make us do.
MAX_MEMBERS = 1000


def is_neurochem(path: Path) -> bool:
    """Whether ``path`` is a ``.info`` file, or the folder of an ensemble or of one member."""
    try:
        if path.is_dir():
            return bool(
                _infos(path) or (path / "train0").is_dir() or any(path.glob("networks/ANN-*.nnf"))
            )
        return path.suffix == ".info" and path.is_file()
    except OSError:
        return False


def read_neurochem(
    path: str | Path, *, dtype: torch.dtype = torch.float32, engine: str = "auto"
) -> ANIEnsemble | ANIModel:
    """Read a published potential, or another in NeuroChem's format, ready for use on the CPU.

    ``path`` is a ``.info`` file (its paths are relative to its folder), the folder of an ensemble
    (``train0``, ``train1``, ..., one ``.params`` file and a ``sae_linfit.dat``), or the folder of
    one member (``networks``, the two other files in it or above), which gives an ANIModel. Networks
    give hartree. ``dtype`` is the networks' precision, float32 as in the files, or float64; self
    energies are float64 always.

    Raises PotentialError that names the file and what is wrong with it; SettingsError for an
    unknown ``engine`` or ``dtype``.
    """
    if dtype not in DTYPES.values():
        raise SettingsError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype}")
    found = _locate(Path(path))
    settings = read_params(found.params)
    energies = read_self_energies(found.self_energies, settings.elements)
    try:
        aev = AEVComputer(settings, engine)
    except SettingsError as e:
        raise SettingsError(f"{path}: {e}") from None
    budget = Budget()
    members = []
    for folder in found.members:
        networks = read_networks(folder / "networks", settings, budget).to(dtype)
        members.append(ANIModel(aev, networks, energies, "hartree", trained=settings.elements))
    origin = recognised(found.params.parent)
    about = {"format": "NeuroChem", **(origin.about if origin else {})}
    if found.single:
        members[0].about = about
        return members[0].eval()
    return ANIEnsemble(members, about).eval()


# ---- which files ---------------------------------------------------------------------------------


class _Located(NamedTuple):
    params: Path
    self_energies: Path
    members: list[Path]
    single: bool  # one member of its own, not an ensemble


def _locate(path: Path) -> _Located:
    if not path.exists():
        raise PotentialError(f"{path}: there is no such file or folder")
    if not path.is_dir():
        return _from_info(path)
    if infos := _infos(path):
        if len(infos) > 1:
            names = ", ".join(p.name for p in infos)
            raise PotentialError(f"{path} holds several potentials; name one of {names}")
        return _from_info(infos[0])
    if (path / "networks").is_dir():
        return _Located(
            _only(path, "*.params", above=True), _only(path, "sae*.dat", above=True), [path], True
        )
    numbers = [p for p in path.glob("train*") if re.fullmatch(r"train\d+", p.name)]
    members = sorted(numbers, key=lambda p: (len(p.name), p.name))
    if not members:
        raise PotentialError(
            f"{path}: not a folder in NeuroChem's format, which has a .info file, train0, train1, "
            "... or networks in it"
        )
    for k, member in enumerate(members):
        if member.name != f"train{k}":
            raise PotentialError(f"{path}: {member.name} is there, but train{k} is missing")
    return _Located(_only(path, "*.params"), _only(path, "sae*.dat"), members, False)


def _infos(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.info"))


def _only(folder: Path, pattern: str, above: bool = False) -> Path:
    """Return the only file of this pattern in a folder, or else in the folder above."""
    folders = [folder, folder.resolve().parent] if above else [folder]
    for place in folders:
        found = sorted(place.glob(pattern))
        if len(found) > 1:
            names = ", ".join(p.name for p in found)
            raise PotentialError(f"{place}: one {pattern} file is needed, but there are {names}")
        if found:
            return found[0]
    raise PotentialError(f"{folder}: no {pattern} file in it" + (" or above it" if above else ""))


def _from_info(path: Path) -> _Located:
    """The four lines of a ``.info`` file: parameters, self energies, prefix of members, count."""
    with naming(path):
        lines = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        if len(lines) != 4:
            raise PotentialError(
                f"a .info file has four lines (parameter file, self-energy file, prefix of the "
                f"members, their number), and this one has {len(lines)}"
            )
        if not re.fullmatch(r"\d{1,9}", lines[3]) or not 1 <= int(lines[3]) <= MAX_MEMBERS:
            raise PotentialError(
                f"the number of members (line 4) must be 1 to {MAX_MEMBERS}, not {lines[3][:40]!r}"
            )
        params, self_energies, prefix = (inside(path.parent, line) for line in lines[:3])
        count = int(lines[3])
        members = [prefix.with_name(f"{prefix.name}{k}") for k in range(count)]
        missing = [m for m in members if not m.is_dir()]
        if missing:
            raise PotentialError(
                f"it says {count} members, but only {count - len(missing)} of their folders are "
                f"there; missing: {missing[0]}"
            )
    return _Located(params, self_energies, members, False)
