"""Frames of ASE atoms: extended XYZ, plain XYZ, and whatever else ASE reads.

Energies are in eV, lengths in angstrom and stresses in eV/angstrom^3 with ASE's sign (dE/dstrain
/ volume), unless ``energy_unit=`` and ``length_unit=`` say otherwise: that is ASE's convention,
whichever program wrote the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import ase
import ase.io
import numpy as np
from ase.data import chemical_symbols

from anipot.data import mapping
from anipot.data.conformers import Conformers
from anipot.data.mapping import ReadOptions, log
from anipot.data.readers.charges import check_neutral_singlet, info_entry
from anipot.data.readers.frame_labels import FrameLabels
from anipot.data.readers.structure_files import read_structures
from anipot.data.readers.xyz import is_xyz, read_xyz
from anipot.elements import SYMBOLS
from anipot.errors import DataError


def read_frames(
    path: Path, options: ReadOptions, carried: list[ase.Atoms] | None = None
) -> Conformers:
    """All frames of a file of structures. Raises DataError naming file, frame and reason.

    ``carried`` gets the frames as they were read, with the constraints and masses that conformers
    do not have.
    """
    not_read: set[str] = set()
    if is_xyz(path):
        frames = read_xyz(path)
    else:
        found = read_structures(path, options)
        frames, not_read, options = found.frames, found.not_read, found.options or options
    if not frames:
        raise DataError(f"{path}: no frame in it")
    data = conformers_from_atoms(frames, options=options, source=str(path))
    energies = data.energies is not None
    mapping.hint_unread_labels(str(path), {"energies": energies}, not_read, options, ("energies",))
    if any(frame.constraints for frame in frames):
        not_read.add("constraints")
    data = replace(data, not_read=tuple(sorted({*data.not_read, *not_read})))
    if carried is not None:
        carried.extend(frames)
    if data.energies is not None and not options.keep_unlabelled and "energies" in data.masks:
        there = data.has("energies")
        dropped = int((~there).sum())
        log.warning(
            "%s: %d frames without an energy left out; %s keeps them",
            path,
            dropped,
            mapping.keyword("keep_unlabelled", True),
        )
        data = _drop(data, there, dropped)
    return data


def conformers_from_atoms(
    frames: Iterable[ase.Atoms],
    *,
    options: ReadOptions | None = None,
    source: str = "",
) -> Conformers:
    """ASE atoms as Conformers.

    Energy, forces and stress come from a frame's ``SinglePointCalculator`` (where ASE's readers
    put them) or from ``info["energy"]``, ``arrays["forces"]``, ``info["stress"]``;
    ``info["virial"]`` (-dE/dstrain) is turned into a stress. ``options`` names other keys and
    units (default eV, angstrom). Frames are grouped by ``info["molecule"]`` where every frame has
    it, or by the key ``options.group_key``; else by formula. A label that some frames lack is
    masked, one that all lack is None. Units that a frame declares (``energy_unit``, ``units`` ...
    in its info) are used where ``options`` gives none. A calculator of any other kind is never
    asked.

    Raises DataError for no frame, a frame without atoms, an unknown element, a charge or a spin,
    and numbers that are not finite, naming the frame.
    """
    frames = list(frames)
    options = options or ReadOptions()
    name = source or "the frames"
    if not frames:
        raise DataError(f"{name}: no frame given")
    labels = FrameLabels(options, name)
    m = len(frames)
    counts = np.array([len(f) for f in frames])
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    numbers = np.empty(offsets[-1], dtype=np.uint8)
    coordinates = np.empty((offsets[-1], 3))
    energies, stress = np.full(m, np.nan), np.full((m, 3, 3), np.nan)
    forces = np.full((offsets[-1], 3), np.nan)
    cells, pbc = np.zeros((m, 3, 3)), np.zeros((m, 3), dtype=bool)
    has = {label: np.zeros(m, dtype=bool) for label in ("energies", "forces", "stress")}
    for i, frame in enumerate(frames):
        where = f"{name}, frame {i}"
        part = slice(offsets[i], offsets[i + 1])
        if not len(frame):
            raise DataError(f"{where}: has no atoms")
        z = frame.numbers
        if not ((z > 0) & (z < len(SYMBOLS))).all():
            atom = int(np.argmin((z > 0) & (z < len(SYMBOLS))))
            raise DataError(
                f"{where}: atom {atom} ({_name(int(z[atom]))!r}) is of no known element"
            )
        check_neutral_singlet(frame, where)
        scales, values = labels.read(frame, where)
        numbers[part], coordinates[part] = z, frame.positions * scales.length
        cells[i], pbc[i] = np.asarray(frame.cell) * scales.length, frame.pbc
        if frame.pbc.any() and (np.abs(cells[i][frame.pbc]).sum(axis=1) == 0).any():
            raise DataError(
                f"{where}: is periodic in a direction that has no lattice vector; give the cell "
                '(Lattice= in XYZ), or pbc="F F F" for a molecule'
            )
        for label, value in values.items():
            if value is None:
                continue
            if not np.isfinite(value).all():
                raise DataError(f"{where}: its {label} hold a number that is not finite")
            target = {"energies": energies, "forces": forces, "stress": stress}[label]
            target[part if label == "forces" else i] = value
            has[label][i] = True
        if not np.isfinite(coordinates[part]).all() or not np.isfinite(cells[i]).all():
            raise DataError(f"{where}: its positions or cell hold a number that is not finite")
    labels.explain(has)
    molecule, names = _groups(frames, options.group_key, name)
    periodic = bool(pbc.any())
    return Conformers(
        numbers,
        coordinates,
        offsets,
        energies=energies if has["energies"].any() else None,
        forces=forces if has["forces"].any() else None,
        stress=stress if has["stress"].any() else None,
        cells=cells if periodic else None,
        pbc=pbc if periodic else None,
        molecule=molecule,  # type: ignore[arg-type]
        molecule_names=names,
        masks={label: there for label, there in has.items() if there.any() and not there.all()},
        sources=(Path(source).name,) if source else (),
        file_units=labels.file_units,
        not_read=labels.not_read(columns=bool(source) and is_xyz(Path(source))),
    )


def _name(number: int) -> str:
    """The symbol of an atomic number, or the number where there is none."""
    return chemical_symbols[number] if 0 <= number < len(chemical_symbols) else str(number)


def _groups(
    frames: Sequence[ase.Atoms], key: str | None, name: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Molecule of each frame and the names; None: by formula."""
    given = key or "molecule"
    lacks = [i for i, frame in enumerate(frames) if info_entry(frame, given) is None]
    if lacks and key is not None:
        raise DataError(
            f"{name}, frame {lacks[0]}: has no {key!r} to group by; name another info key with "
            f"{mapping.keyword('group_key')}"
        )
    if lacks:
        return None, ()
    places: dict[str, int] = {}
    groups = [places.setdefault(str(frame.info[given]), len(places)) for frame in frames]
    return np.array(groups, dtype=np.int32), tuple(places)


def _drop(data: Conformers, keep: np.ndarray, dropped: int) -> Conformers:
    kept = data.take(keep)
    masks = {label: mask for label, mask in kept.masks.items() if not mask.all()}
    return replace(kept, masks=masks, dropped=dropped)
