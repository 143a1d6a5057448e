"""load_dataset: any supported file, or several, as Conformers."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import ase
import numpy as np

from anipot.data.conformers import Conformers
from anipot.data.mapping import ReadOptions, listed, log, read_options
from anipot.data.problems.labels import odd_electrons
from anipot.data.readers import deepmd
from anipot.data.readers.ani_hdf5 import Empty, is_hdf5, read_ani_hdf5
from anipot.data.readers.extxyz import read_frames
from anipot.data.readers.npz import read_npz
from anipot.data.store import MANIFEST, is_store, open_store
from anipot.errors import DataError
from anipot.registry import Registry

PathLike = str | os.PathLike[str]

#: Readers by the ending of their files, such as ".mine": functions of path and ReadOptions that
#: return Conformers, or raise DataError. HDF5 files and what ASE reads have readers of their own.
readers: Registry[Callable[[Path, ReadOptions], Conformers]] = Registry("reader", "anipot.readers")
readers.register(".npz")(read_npz)


def load_dataset(
    paths: PathLike | Iterable[PathLike],
    *,
    energy_key: str | None = None,
    coordinates_key: str | None = None,
    species_key: str | None = None,
    forces_key: str | None = None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    stress_key: str | None = None,
    virial_key: str | None = None,
    energy_from: str | None = None,
    force_unit: str | None = None,
    stress_unit: str | None = None,
    forces_sign: str | None = None,
    stress_sign: str | None = None,
    high_energy: bool = False,
    keep_unlabelled: bool = False,
    group_key: str | None = None,
) -> Conformers:
    """Read a data set from one file or several (then in order, as one). Files are never changed.

    Files: ANI HDF5 of any nesting (ANI-1, ANI-1x, COMP6, ANI-1r), extended and plain XYZ,
    ``.npz`` (saved by anipot, or laid out as MD17, rMD17, sGDML), folders of DeePMD systems, and
    what else ASE reads. A store (a folder that ``anipot data pack`` wrote) is checked and mapped
    into memory, not read into it.

    - ``energy_key``, ``coordinates_key``, ``species_key``, ``forces_key``, ``stress_key``,
      ``virial_key``: names in the file, where they are not the usual ones or there are several;
    - ``energy_from="comment"``: read energies from the comment lines of XYZ files;
    - ``energy_unit``, ``length_unit``: units of the file, where it does not declare them (a
      contradiction is an error). HDF5 files are taken to be in hartree and angstrom, ASE's formats
      and DeePMD systems in eV and angstrom; foreign
      ``.npz`` files have no default. Forces are in the one over the other, or in ``force_unit``
      (``"hartree/bohr"``); stresses in energy over length cubed, or in ``stress_unit`` (``"GPa"``);
    - ``forces_sign``: ``"forces"`` or ``"gradient"`` (then negated). By default forces are
      forces, except in COMP6 and ANI-1r files, known by their keys ``cm5`` and ``hirdipole``; it
      must be given for a ``forces_key`` named as a gradient;
    - ``stress_sign``: ``"ase"`` (the default: dE/dstrain over volume; a virial is -dE/dstrain) or
      ``"negative"`` (stress and virial are then negated);
    - ``high_energy``: read ANI-1's high-energy extras too (``coordinatesHE``, ``energiesHE``);
    - ``keep_unlabelled``: keep conformers without an energy, masked, where they are otherwise
      left out and counted (in ``dropped`` and in the log): NaN in the ANI-1x layout, frames
      without an energy;
    - ``group_key``: the info key that names the molecule of an XYZ frame; default ``molecule``
      where every frame has one, else the formula.

    Returns Conformers in hartree, angstrom and hartree/angstrom. Raises DataError naming file,
    group and reason, SettingsError for a keyword that makes no sense.
    """
    options = read_options(
        energy_key=energy_key,
        coordinates_key=coordinates_key,
        species_key=species_key,
        forces_key=forces_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        stress_key=stress_key,
        virial_key=virial_key,
        energy_from=energy_from,
        force_unit=force_unit,
        stress_unit=stress_unit,
        forces_sign=forces_sign,
        stress_sign=stress_sign,
        high_energy=high_energy,
        keep_unlabelled=keep_unlabelled,
        group_key=group_key,
    )
    return read_files([paths] if isinstance(paths, str | os.PathLike) else paths, options)


def read_files(
    paths: Iterable[PathLike],
    options: ReadOptions,
    carried: list[ase.Atoms | None] | None = None,
) -> Conformers:
    """As ``load_dataset``, with the options in one piece.

    ``carried`` gets, for each conformer, the frame that it was read from, or None.
    """
    given = list(paths)
    if not given:
        raise DataError("no data file given")
    parts = []
    for path in given:
        frames: list[ase.Atoms] = []
        parts.append(read_file(Path(path), options, carried=frames))
        if carried is not None:
            carried.extend(frames or [None] * len(parts[-1]))
    return Conformers.concatenate(parts)


def read_file(
    path: Path,
    options: ReadOptions,
    empty: Empty = np.empty,
    carried: list[ase.Atoms] | None = None,
) -> Conformers:
    """One file, by the reader of its type. Raises DataError.

    ``empty`` makes the large arrays where the reader fills them piece by piece (HDF5). ``carried``
    gets the frames of structure files: see ``read_frames``.
    """
    if is_store(path):
        return open_store(path)
    if path.is_dir():
        return _read_folder(path, options)
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except FileNotFoundError:
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"no file {path}{hint}") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be opened ({e.strerror})") from e
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes)")
    system = deepmd.system_of(path)
    if system is not None:
        raise DataError(f"{path} is a part of a DeePMD system; give its folder, {system}")
    conformers = _by_type(path, options, empty, carried)
    for problem in odd_electrons(conformers):
        log.warning("WARNING, %s: %s", path, problem.message)
    return conformers


def _by_type(
    path: Path, options: ReadOptions, empty: Empty, carried: list[ase.Atoms] | None
) -> Conformers:
    suffix = path.suffix.lower()
    if suffix == ".npy":
        raise DataError(
            f"{path} is a single array; save coordinates, species and energies together with "
            "numpy.savez as an .npz file"
        )
    if suffix in readers:
        return readers[suffix](path, options)
    if suffix in (".h5", ".hdf5", ".hdf") or is_hdf5(path):
        return read_ani_hdf5(path, options, empty)
    return read_frames(path, options, carried)


def _read_folder(path: Path, options: ReadOptions) -> Conformers:
    """The DeePMD systems at or below a folder."""
    try:
        files = [p.name for p in path.iterdir() if p.is_file() and not p.name.startswith(".")]
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from e
    if (path.parent / deepmd.TYPES).is_file():
        raise DataError(f"{path} is a part of a DeePMD system; give its folder, {path.parent}")
    systems = deepmd.systems_below(path)
    if systems and (systems == [path] or not files):
        return deepmd.read_deepmd(path, systems, options)
    if systems:
        names = [str(system.relative_to(path)) for system in systems]
        raise DataError(
            f"{path} holds files ({listed(files)}) and below it DeePMD systems ({listed(names)}); "
            "name the ones that are meant"
        )
    raise DataError(
        f"{path} is a folder, and neither a store (it has no {MANIFEST}) nor a DeePMD system (it "
        f"has no {deepmd.TYPES}); name the files in it: {listed(files)}"
    )
