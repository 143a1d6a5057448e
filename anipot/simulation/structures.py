"""Atoms of ASE: made from conformers, and written with what a calculator says of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from anipot.data.conformers import Conformers
from anipot.elements import symbols_of
from anipot.simulation.constraints import PINNED, simplified

#: What a long task asks after every step: whether to stop there, at the user's wish.
Stop = Callable[[], bool]


def never() -> bool:
    """The ``Stop`` of a task that nobody interrupts."""
    return False


def structures(
    conformers: Conformers, carried: Sequence[ase.Atoms | None] | None = None
) -> list[ase.Atoms]:
    """Conformers as ASE atoms; ``info["molecule"]`` is the name of the group of the file.

    ``carried`` are the frames that they were read from, for constraints and the masses of isotopes.
    """
    frames = []
    for i in range(len(conformers)):
        own = slice(conformers.offsets[i], conformers.offsets[i + 1])
        frame = ase.Atoms(
            symbols_of(conformers.atomic_numbers[own]), positions=conformers.coordinates[own]
        )
        if conformers.cells is not None and conformers.pbc is not None and conformers.pbc[i].any():
            frame.set_cell(conformers.cells[i])
            frame.pbc = conformers.pbc[i]
        frame.info["molecule"] = conformers.molecule_names[conformers.molecule[i]]
        source = None if carried is None else carried[i]
        if source is not None:
            frame.set_constraint(simplified(source.constraints))
            if source.has("masses"):
                frame.set_masses(source.get_masses())
        frames.append(frame)
    return frames


def snapshot(atoms: ase.Atoms, **info: Any) -> ase.Atoms:
    """A copy that keeps energy (eV), forces and stress (eV/angstrom^3) where they are known.

    Of constraints it keeps those that hold atoms in space, with which files are written.
    """
    frame = atoms.copy()
    frame.set_constraint([c for c in frame.constraints if isinstance(c, PINNED)])
    known = getattr(atoms.calc, "results", {})
    kept = {k: known[k] for k in ("energy", "forces", "stress") if k in known}
    frame.calc = SinglePointCalculator(frame, **kept)
    frame.info.update(info)
    return frame


def extxyz(frame: ase.Atoms) -> str:
    """A frame as a piece of an extended XYZ file."""
    text = io.StringIO()
    write_extxyz(text, [frame])
    return text.getvalue()


def largest_force(atoms: ase.Atoms) -> tuple[float, int]:
    """The largest force on an atom, eV/angstrom, and the atom's index."""
    norms = np.linalg.norm(atoms.get_forces(), axis=1)
    return float(norms.max(initial=0.0)), int(norms.argmax()) if len(norms) else 0
