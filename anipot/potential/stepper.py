"""Stepper: energy and forces of one system, step after step, with as little Python as can be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from anipot.aev.computer import ElementSubset
from anipot.aev.prepared import PreparedAEV
from anipot.data import arrays
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.data.positions import NEAR, check_resolved, near_origin
from anipot.errors import DataError
from anipot.networks.native import SmallNetworks, available
from anipot.networks.repulsion import Contact, RepulsionStepper
from anipot.potential.inference import AnyStack, Evaluator
from anipot.potential.outputs import strain_gradient
from anipot.potential.prediction import deviation, disagreement

#: Atoms of one element up to which ``SmallNetworks`` is faster than batched matrix products.
SMALL_ROWS = 32

#: Layers of a network up to which ``SmallNetworks`` takes it.
MOST_LAYERS = 32


class Point(NamedTuple):
    """One geometry of a system of N atoms.

    ``energy`` hartree, the mean over members; ``forces`` (N, 3) hartree/angstrom, the model's
    precision, in the order of the atoms; ``member_energies`` (K,) hartree; ``stress`` (3, 3)
    hartree/angstrom^3 with ASE's sign, or None where it was not asked for.
    """

    energy: float
    forces: np.ndarray
    member_energies: np.ndarray
    stress: np.ndarray | None = None

    @property
    def energy_std(self) -> float:
        """Hartree: the sample standard deviation of the energy over members; NaN for one."""
        return float(deviation(self.member_energies))

    @property
    def disagreement(self) -> float:
        """Hartree: ``energy_std`` over the square root of the number of atoms; NaN for one."""
        return float(disagreement(self.energy_std, len(self.forces)))


class Stepper:
    """Energy and forces of a system whose atoms do not change: molecular dynamics, relaxation.

    Made by ``ANIModel.stepper`` and ``ANIEnsemble.stepper``; everything that depends on the
    elements alone (order, weights, arrays) is made once. It holds a snapshot of the weights.

    ``atomic_numbers`` (N,), or symbols; ``pbc`` three truth values, or one for all directions.
    Raises DataError for an element that the model does not know, naming the atom, and for anything
    that is no atomic number or truth value.
    """

    def __init__(
        self, evaluator: Evaluator, atomic_numbers: ArrayLike, pbc: bool | Sequence[bool] = False
    ) -> None:
        numbers = arrays.atomic_numbers(atomic_numbers)
        n = len(numbers)
        self.pbc = arrays.directions(pbc)
        self.periodic = bool(self.pbc.any())
        self.atomic_numbers = numbers
        self._lock = threading.Lock()
        conformer = Conformers(
            numbers,
            np.zeros((n, 3)),
            np.array([0, n]),
            cells=np.eye(3)[None] if self.periodic else None,
            pbc=self.pbc[None] if self.periodic else None,
        )
        evaluator.check_known(conformer)
        self._evaluator = evaluator
        self._single = evaluator.dtype == torch.float32
        self._batch = Batch.of(
            conformer, evaluator.settings.elements, evaluator.dtype, evaluator.device
        )
        self._atoms = self._batch.atoms.cpu().numpy()
        self._rows = self._batch.rows.cpu().numpy()
        composition = conformer.composition(evaluator.settings.elements)
        self._own = (composition @ evaluator.self_energies.T)[0]  # (K,)
        self._scales = evaluator.scales.cpu().numpy()
        self._aev: PreparedAEV | None = None
        self._repulsion: RepulsionStepper | None = None
        if evaluator.engine == "native" and n:
            subset, stacks = evaluator.subset([e for e, c in enumerate(self._batch.counts) if c])
            reduced = replace(self._batch, species=subset.place[self._batch.species])
            self._aev = aev = PreparedAEV(subset.aev.settings, reduced, evaluator.dtype)
            if evaluator.repulsion is not None:
                self._repulsion = RepulsionStepper(evaluator.repulsion, conformer)
            self._coordinates = aev.coordinates.numpy()
            self._forces = aev.coordinate_gradient.numpy()
            self._out = torch.zeros(evaluator.n_members, n, dtype=evaluator.dtype)
            self._out_array = self._out.numpy()
            self._networks = self._small(subset, aev) or self._stacked(stacks, aev)

    def _small(self, subset: ElementSubset, aev: PreparedAEV) -> Callable[[], None] | None:
        counts = [c for c in self._batch.counts if c]
        if max(counts) > SMALL_ROWS or not available():
            return None
        weights = self._evaluator.small(subset)
        if weights is None or any(len(w.widths) > MOST_LAYERS for w in weights):
            return None
        ends = np.cumsum(counts).tolist()
        rows = [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
        parts = list(zip(weights, rows, strict=True))
        return SmallNetworks(parts, aev.aev, aev.gradient, self._out)

    def _stacked(self, stacks: list[list[AnyStack]], aev: PreparedAEV) -> Callable[[], None]:
        evaluator, out = self._evaluator, self._out
        blocks = [
            (stacks[place], aev.aev[rows], aev.gradient[rows], out[:, rows])
            for place, rows in evaluator.blocks(self._batch.counts)
        ]

        def networks() -> None:
            for group, x, gradient, energies in blocks:
                energies.copy_(evaluator.networks(group, x, gradient))

        return networks

    def __len__(self) -> int:
        return len(self._rows)

    def __call__(
        self, coordinates: ArrayLike, cell: ArrayLike | None = None, *, stress: bool = False
    ) -> Point:
        """Energy, forces and, if asked for, stress at ``coordinates`` (N, 3), angstrom.

        ``cell`` (3, 3), angstrom, lattice vectors in rows, where the system is periodic. Raises
        DataError for wrong shapes, for numbers that are not finite, for a flat or missing cell,
        and for stress without a cell.
        """
        x = arrays.reals(coordinates, "coordinates")
        if x.shape != (len(self), 3):
            raise DataError(f"coordinates have shape {x.shape}, {len(self)} atoms need (N, 3)")
        given, lattice = x, None
        if self.periodic:
            if cell is None:
                raise DataError("the system is periodic but no cell was given; give cell=")
            lattice = arrays.reals(cell, "the cell").copy()  # torch takes no read-only array
            if lattice.shape != (3, 3):
                raise DataError(f"the cell has shape {lattice.shape}, and must have (3, 3)")
        if stress and not self.pbc.all():
            raise DataError("stress needs a cell that is periodic in all three directions")
        if len(x):
            x = x - x.mean(axis=0)
            # Before single precision rounds them: far from the origin few digits are left. A sum of
            # squares is found sooner than the largest, and larger. Not so of NaN: to the slow way.
            flat = x.ravel()
            if self._single and not flat @ flat <= NEAR**2:
                x = near_origin(given, lattice, self.pbc)
                check_resolved(x, "the system")
        with self._lock:  # the arrays are used again at every call
            try:
                point = self._point(x, lattice, stress)
            except DataError:
                # Their mean is no number then, and took all others along.
                for atom in np.flatnonzero(~np.isfinite(given).all(axis=1)):
                    raise DataError(
                        f"atom {atom} has coordinates {given[atom].tolist()}; they must be finite "
                        "numbers of angstrom"
                    ) from None
                raise
            if self._repulsion is None:
                return point
            return _repelled(point, self._repulsion(given, lattice), lattice)

    def _point(self, x: np.ndarray, lattice: np.ndarray | None, stress: bool) -> Point:
        if self._aev is None:
            return self._ordinary(x, lattice, stress)
        aev = self._aev
        self._coordinates[...] = x[self._atoms]
        if lattice is not None:
            assert aev.cells is not None
            aev.cells[0] = torch.as_tensor(lattice)
        with torch.no_grad():
            aev.forward()
            self._networks()
            aev.backward()
        found = None
        if stress:
            assert lattice is not None
            assert aev.cell_gradient is not None
            cell = torch.as_tensor(lattice)[None].double()
            batch = replace(self._batch, coordinates=aev.coordinates, cells=cell)
            by_strain = strain_gradient(batch, -aev.coordinate_gradient, -aev.cell_gradient)
            found = by_strain[0].numpy() / abs(np.linalg.det(lattice))
        energies = self._out_array.sum(1, dtype=np.float64) * self._scales + self._own
        return Point(energies.sum() / len(energies), self._forces[self._rows], energies, found)

    def _ordinary(self, x: np.ndarray, lattice: np.ndarray | None, stress: bool) -> Point:
        """The same through the evaluation of batches, on any engine and device."""
        evaluator = self._evaluator
        like = self._batch.coordinates

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.as_tensor(array).to(like)

        batch = replace(
            self._batch,
            coordinates=tensor(x[self._atoms]),
            cells=None if lattice is None else tensor(lattice)[None],
        )
        outputs = evaluator.evaluate(batch, derivatives=True)
        assert outputs.forces is not None
        energies = outputs.atomic.sum(1).cpu().numpy() + self._own
        return Point(
            float(energies.mean()),
            batch.conformer_order(outputs.forces).cpu().numpy(),
            energies,
            evaluator.stress(batch, outputs)[0].cpu().numpy() if stress else None,
        )


def _repelled(point: Point, contact: Contact | None, lattice: np.ndarray | None) -> Point:
    """A point with the repulsion added to what the networks say."""
    if contact is None:
        return point
    stress = point.stress
    if stress is not None:
        assert lattice is not None
        stress = stress + contact.virial / abs(np.linalg.det(lattice))
    return Point(
        point.energy + contact.energy,
        (point.forces + contact.forces).astype(point.forces.dtype, copy=False),
        point.member_energies + contact.energy,
        stress,
    )
