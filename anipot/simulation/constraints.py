"""Constraints of atoms in simulations: which can be held, and the motions that they leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import ase
import numpy as np
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixScaled,
    dict2constraint,
)

from anipot.errors import SimulationError

#: Constraints that molecular dynamics holds.
HELD = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane, FixBondLengths, FixCom)
#: Of them, those that hold atoms in space, so that a molecule cannot move as a whole.
PINNED = (FixAtoms, FixCartesian, FixScaled, FixedLine, FixedPlane)

#: What ASE says of bonds that cannot be held, in a RuntimeError.
NOT_HELD = "Did not converge"

#: Most that a bond may differ from the length that it is to be held at, angstrom.
BOND_TOLERANCE = 1e-3


def held_in_dynamics(atoms: ase.Atoms) -> list[Any]:
    """Constraints of ``atoms`` as molecular dynamics holds them, with all that they depend on.

    FixScaled becomes FixedLine or FixedPlane, since ASE's adjusts momenta as if the cell were
    rectangular; bonds become one FixBondLengths that knows its lengths. Raises SimulationError for
    a constraint that cannot be held, and for some that cannot be held together: ASE applies one
    after the other.
    """
    held: list[Any] = []
    pairs: list[Any] = []
    lengths: list[float] = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, HELD):
            raise SimulationError(
                f"{type(constraint).__name__} cannot be held in molecular dynamics; these can: "
                f"{', '.join(kind.__name__ for kind in HELD)}. Remove it from the atoms"
            )
        if isinstance(constraint, FixBondLengths):
            given = constraint.bondlengths
            found = constraint.initialize_bond_lengths(atoms)
            pairs += constraint.pairs.tolist()
            lengths += list(found if given is None else given)
            _check_bonds(constraint.pairs, found, found if given is None else given)
        elif isinstance(constraint, FixScaled):
            held.append(_in_space(constraint, atoms))
        else:
            held.append(deepcopy(constraint))
    if pairs:
        held.append(FixBondLengths(pairs, bondlengths=lengths))
    _check_together(held, len(atoms))
    if fixed(held, atoms).all():
        raise SimulationError("all atoms are fixed; nothing is left to move")
    # Bonds last but for the centre of mass, which they leave where it is.
    return sorted(held, key=lambda c: isinstance(c, FixBondLengths) + 2 * isinstance(c, FixCom))


def _check_bonds(pairs: np.ndarray, found: np.ndarray, given: Sequence[float]) -> None:
    for (i, j), length, target in zip(pairs, found, given, strict=True):
        if abs(length - target) > BOND_TOLERANCE:
            raise SimulationError(
                f"the bond of atoms {i} and {j} has {length:.4f} angstrom and is to be held at "
                f"{target:.4f}; relax the structure first"
            )


def _in_space(constraint: FixScaled, atoms: ase.Atoms) -> Any:
    """Convert FixScaled to Cartesian coordinates for a fixed cell."""
    mask, cell = constraint.mask, np.asarray(atoms.cell)
    if mask.all() or not mask.any():
        return FixAtoms(constraint.index if mask.any() else [])
    if mask.sum() == 2:
        return FixedLine(constraint.index, cell[~mask][0])
    first, second = cell[~mask]
    return FixedPlane(constraint.index, np.cross(first, second))


def _check_together(held: Sequence[Any], n: int) -> None:
    names: list[list[str]] = [[] for _ in range(n)]
    for constraint in held:
        if isinstance(constraint, FixCom):
            continue
        indices = np.unique(np.asarray(constraint.get_indices(), dtype=int))
        wrong = indices[(indices < -n) | (indices >= n)]
        if len(wrong):
            raise SimulationError(
                f"{type(constraint).__name__} holds atom {wrong[0]}; there are {n} atoms"
            )
        for i in indices:
            names[i].append(type(constraint).__name__)
    for i, own in enumerate(names):
        bonds, kinds = "FixBondLengths" in own, Counter(own)
        # The order does not matter where atoms are fixed wholly, or along the same axes.
        moving = {k for k in kinds if k != "FixAtoms"}
        twice = any(kinds[k] > 1 for k in ("FixedLine", "FixedPlane"))
        if (bonds and len(kinds) > 1) or len(moving) > 1 or twice:
            raise SimulationError(
                f"atom {i} is held by {' and '.join(sorted(own))}, which ASE applies one after the "
                "other, so that only the last would hold; give it one constraint"
            )
    if any(isinstance(c, FixCom) for c in held) and is_pinned(held):
        raise SimulationError("FixCom cannot hold the centre of mass while other atoms are fixed")


def fixed_atoms(atoms: ase.Atoms, task: str) -> np.ndarray:
    """(N,) bool: the atoms that FixAtoms holds. SimulationError where other constraints are there.

    ``task`` is what cannot hold the others, for the message.
    """
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise SimulationError(
                f"{type(constraint).__name__} cannot be held in {task}; only whole atoms can "
                "(FixAtoms). Remove it from the atoms"
            )
    return np.asarray(fixed(atoms.constraints, atoms).all(axis=1))


def simplified(constraints: Sequence[Any]) -> list[Any]:
    """The same constraints with one FixCartesian for each mask, and FixAtoms where it is whole.

    Files in extended XYZ have one for each atom, those of atoms that are free among them.
    """
    indices: dict[tuple[bool, ...], list[int]] = {}
    others = []
    for constraint in constraints:
        if isinstance(constraint, FixCartesian):
            own = indices.setdefault(tuple(constraint.mask.tolist()), [])
            own += constraint.index.tolist()
        else:
            others.append(deepcopy(constraint))
    return [
        FixAtoms(own) if all(mask) else FixCartesian(own, mask)
        for mask, own in indices.items()
        if any(mask)
    ] + others


def is_pinned(constraints: Sequence[Any]) -> bool:
    """Whether some atoms are held in space."""
    return any(isinstance(c, PINNED) for c in constraints)


def fixed(constraints: Sequence[Any], atoms: ase.Atoms) -> np.ndarray:
    """(N, 3) bool: Cartesian components of positions that cannot change."""
    mask = np.zeros((len(atoms), 3), dtype=bool)
    for constraint in constraints:
        if isinstance(constraint, FixAtoms):
            mask[constraint.index] = True
        elif isinstance(constraint, FixCartesian):
            mask[constraint.index] |= constraint.mask
    return mask


def forbidden(constraints: Sequence[Any], atoms: ase.Atoms) -> np.ndarray:
    """(K, 3N): directions in which no velocity may have a component, beyond those of ``fixed``."""
    rows: list[np.ndarray] = []

    def row(*parts: tuple[int, np.ndarray]) -> None:
        rows.append(np.zeros((len(atoms), 3)))
        for i, direction in parts:
            rows[-1][i] = direction

    for constraint in constraints:
        if isinstance(constraint, FixedPlane):
            for i in constraint.index:
                row((i, constraint.dir))
        elif isinstance(constraint, FixedLine):
            across = np.linalg.svd(constraint.dir[None])[2][1:]
            for i in constraint.index:
                for direction in across:
                    row((i, direction))
        elif isinstance(constraint, FixBondLengths):
            for i, j in constraint.pairs:
                along = atoms.get_distance(i, j, mic=bool(atoms.pbc.any()), vector=True)
                row((i, along), (j, -along))
    return np.reshape(rows, (len(rows), 3 * len(atoms)))


def whole_motions(atoms: ase.Atoms, rotations: bool) -> np.ndarray:
    """(3 or 6, 3N): momenta of the motions of the whole, as directions for velocities."""
    mass = atoms.get_masses()[:, None]
    x = atoms.positions - atoms.get_center_of_mass()
    axes = np.eye(3)
    rows = [mass * axis for axis in axes]
    if rotations:
        rows += [mass * np.cross(axis, x) for axis in axes]
    return np.reshape(rows, (len(rows), 3 * len(atoms)))


def left_free(atoms: ase.Atoms, momenta: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Momenta (N, 3) without what constraints of ``atoms`` and ``rows`` (K, 3N) forbid.

    What is left of a Maxwell-Boltzmann distribution is one.
    """
    free = ~fixed(atoms.constraints, atoms).reshape(-1)
    inverse = free / np.repeat(atoms.get_masses(), 3)
    rows = np.concatenate([forbidden(atoms.constraints, atoms), rows])
    p = np.where(free, momenta.reshape(-1), 0.0)
    if len(rows):
        weighted = rows * inverse
        matrix = weighted @ rows.T
        p = p - rows.T @ (np.linalg.pinv(matrix, rcond=1e-10, hermitian=True) @ (weighted @ p))
    return np.where(free, p, 0.0).reshape(-1, 3)


def n_free(atoms: ase.Atoms, rows: np.ndarray) -> int:
    """The number of motions that constraints of ``atoms`` and ``rows`` (K, 3N) leave."""
    free = ~fixed(atoms.constraints, atoms).reshape(-1)
    rows = np.concatenate([forbidden(atoms.constraints, atoms), rows])[:, free]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    return int(free.sum() - (np.linalg.matrix_rank(rows, tol=1e-6) if len(rows) else 0))


def described(constraints: Sequence[Any]) -> list[dict[str, Any]]:
    """Constraints in words of JSON, with the lengths of bonds; see ``restored``."""
    found = []
    for constraint in constraints:
        about = constraint.todict()
        if isinstance(constraint, FixBondLengths):
            about["kwargs"]["bondlengths"] = [float(x) for x in constraint.bondlengths]
        found.append(_plain(about))
    return found


def restored(description: Sequence[dict[str, Any]]) -> list[Any]:
    """The constraints that ``described`` describes."""
    found = []
    for about in description:
        constraint = dict2constraint(deepcopy(about))
        if isinstance(constraint, FixedLine | FixedPlane):
            # Normalizing it once more would change its last digits, and those of the run.
            constraint.dir = np.array(about["kwargs"]["direction"])
        found.append(constraint)
    return found


def same(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> bool:
    """Whether two descriptions are of the same constraints, whatever the lengths of bonds are."""
    return _without_lengths(first) == _without_lengths(second)


def _without_lengths(description: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**a, "kwargs": {k: v for k, v in a["kwargs"].items() if k != "bondlengths"}}
        for a in description
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(part) for part in value]
    return value.item() if isinstance(value, np.generic) else value


def in_words(constraints: Sequence[Any]) -> str:
    """Such as ``FixAtoms (2 atoms), FixBondLengths (1 bond)``; nothing where there is none."""
    parts = []
    for constraint in constraints:
        name = type(constraint).__name__
        if isinstance(constraint, FixBondLengths):
            n = len(constraint.pairs)
            parts.append(f"{name} ({n} bond{'s' * (n != 1)})")
        elif hasattr(constraint, "index"):
            n = len(constraint.index)
            parts.append(f"{name} ({n} atom{'s' * (n != 1)})")
        else:
            parts.append(name)
    return ", ".join(parts)
