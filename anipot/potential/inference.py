"""Evaluator: energies and their derivatives of trained networks, without autograd.

Three steps without a graph: AEVs (native engine), networks forward and backward for all members of
an ensemble at once, and the vector-Jacobian product of the AEVs, which turns the networks' gradient
into forces and stress. With another engine the first and the last step use autograd.

Columns of the AEV that belong to elements absent from a batch are zero. They are left out exactly:
AEVs are computed for the elements present, and first layers are cut to their columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anipot import units
from anipot.aev import native
from anipot.aev.computer import ElementSubset
from anipot.data.batches import Batch, BatchLoader, check_known, chunks
from anipot.data.conformers import Conformers, check_conformers
from anipot.errors import DataError, SettingsError
from anipot.networks.atomic import AtomicNet, RegisteredNet
from anipot.networks.native import Weights, compiled
from anipot.networks.stacked import AutogradStack, Stack, group_alike, make_stack
from anipot.potential.outputs import strain_gradient
from anipot.potential.prediction import Prediction, deviation

if TYPE_CHECKING:
    from anipot.potential.model import ANIModel

#: What ``Prediction`` has for each conformer; the rest it has for each atom.
_PER_CONFORMER = frozenset({"stress", "energy_std"})

AnyStack = Stack | AutogradStack

#: Rows times members that go through the networks at once, so that what the backward pass needs
#: stays in the cache.
BLOCK_ROWS = 1024


class Evaluated(NamedTuple):
    """Energies and forces of a batch of B conformers with N atoms by K members, in hartree.

    ``atomic`` (K, N) float64, by row, with the repulsion and without self energies. ``forces``
    (N, 3) by row and ``cells`` (B, 3, 3), per angstrom, in the precision of the model: minus the
    gradient of the mean over members by coordinates and by cells. ``member_forces`` (K, N, 3).
    What was not asked for is None.
    """

    atomic: Tensor
    forces: Tensor | None = None
    cells: Tensor | None = None
    member_forces: Tensor | None = None


class Evaluator:
    """Fast evaluation of one model, or of several with the same AEVs.

    It holds a snapshot of the weights: make a new one after training. Dropout is never active.
    Raises SettingsError for members that differ in AEV settings, repulsion, precision or device.
    """

    def __init__(self, members: Sequence[ANIModel]) -> None:
        if not members:
            raise SettingsError("an ensemble needs at least one member")
        first = members[0]
        for k, m in enumerate(members):
            if m.aev.settings != first.aev.settings:
                raise SettingsError(
                    f"member {k} has other elements or AEV settings than member 0, and the members "
                    f"of an ensemble share AEVs; {m.aev.settings} is not {first.aev.settings}"
                )
            if m.repulsion != first.repulsion:
                raise SettingsError(
                    f"member {k} has the repulsion {m.repulsion}, member 0 {first.repulsion}; the "
                    "members of an ensemble share one"
                )
            if m.dtype != first.dtype or m.device != first.device:
                raise SettingsError(
                    f"member {k} is in {m.dtype} on {m.device}, member 0 in {first.dtype} on "
                    f"{first.device}; convert them with .to()"
                )
        self.settings, self.repulsion = first.aev.settings, first.repulsion
        self.dtype, self.device = first.dtype, first.device
        self.engine = first.aev.engine_on(self.device)
        self.n_members = len(members)
        #: (K, E) hartree
        self.self_energies = np.stack([m.self_energies.values for m in members])
        scales = [units.energy_to_hartree(m.output_unit) for m in members]
        #: (K,) float64: hartree in the unit of each member's networks
        self.scales = torch.tensor(scales, dtype=torch.float64, device=self.device)
        #: elements whose networks all members may use
        self.known = tuple(
            e for e in first.elements if all(e in (m.trained or m.elements) for m in members)
        )
        self._networks: list[list[AtomicNet | RegisteredNet]] = []
        for m in members:
            nets = [n for n in m.networks.values() if isinstance(n, AtomicNet | RegisteredNet)]
            assert len(nets) == len(m.networks)
            self._networks.append(nets)
        self._groups = group_alike(self._networks)
        members_in_order = [k for group in self._groups for k in group]
        #: place of each member among the outputs of all groups
        self._order = np.argsort(members_in_order).tolist()
        self._aev = first.aev
        self._subsets: dict[tuple[int, ...], tuple[ElementSubset, list[list[AnyStack]]]] = {}

    def check_known(self, conformers: Conformers) -> None:
        """Raise DataError for an atom whose network is not there, or not trained, in a member."""
        check_known(conformers, self.known)

    # ---- networks ----------------------------------------------------------------------------

    def subset(self, elements: Sequence[int]) -> tuple[ElementSubset, list[list[AnyStack]]]:
        """AEVs of batches with these elements (indices, rising), and the networks on them.

        Networks are ordered by element, then by group of members that are alike.
        """
        key = tuple(elements)
        if key not in self._subsets:
            aevs, seeds = self._aev.subset(key, self.device), self._seeds
            self._subsets[key] = (
                aevs,
                [
                    [
                        make_stack(
                            [self._networks[k][e] for k in group],
                            aevs.columns,
                            [seeds[k] for k in group],
                        )
                        for group in self._groups
                    ]
                    for e in key
                ],
            )
        return self._subsets[key]

    @property
    def _seeds(self) -> list[float]:
        """Factors that turn the gradient of each member's energies into its share of the forces."""
        seeds: list[float] = (-self.scales / self.n_members).tolist()
        return seeds

    def small(self, aevs: ElementSubset) -> list[Weights] | None:
        """Weights for ``SmallNetworks``, by element; None where members differ in shape."""
        nets = [
            [net for members in self._networks if isinstance(net := members[e], AtomicNet)]
            for e in aevs.indices
        ]
        if len(self._groups) > 1 or not all(len(n) == self.n_members for n in nets):
            return None
        if not all(compiled(n[0]) for n in nets):
            return None
        return [Weights(n, aevs.columns, self._seeds) for n in nets]

    def networks(
        self,
        stacks: list[AnyStack],
        x: Tensor,
        gradient: Tensor | None = None,
        by_member: Tensor | None = None,
    ) -> Tensor:
        """(K, n) atomic energies of one element's AEVs ``x`` (n, L), in the networks' units.

        ``gradient`` (n, L) is filled with minus the gradient of the mean in hartree, ``by_member``
        (K, n, L) with each member's share of it.
        """
        if len(stacks) == 1:
            return stacks[0](x, gradient, by_member)
        parts, members = [], []
        if gradient is not None:
            gradient.zero_()
        for stack in stacks:
            own = None if by_member is None else by_member.new_empty(stack.n_members, *x.shape)
            share = None if gradient is None else torch.empty_like(gradient)
            parts.append(stack(x, share, own))
            if gradient is not None and share is not None:
                gradient += share
            if own is not None:
                members.append(own)
        if by_member is not None:
            torch.cat(members, out=by_member)
            by_member.copy_(by_member[self._order])
        return torch.cat(parts)[self._order]

    def blocks(self, counts: Sequence[int]) -> Iterator[tuple[int, slice]]:
        """(place of the element among those present, rows) in blocks that fit the cache."""
        size = max(BLOCK_ROWS // self.n_members, 64)
        start = place = 0
        for count in counts:
            if not count:
                continue
            end = start + count
            parts = -(-count // size)
            for p in range(parts):
                yield place, slice(start + count * p // parts, start + count * (p + 1) // parts)
            start, place = end, place + 1

    # ---- batches -----------------------------------------------------------------------------

    def evaluate(
        self, batch: Batch, *, derivatives: bool = False, member_forces: bool = False
    ) -> Evaluated:
        """Energies of atoms and derivatives for a batch; see ``Evaluated``."""
        n, k = len(batch.species), self.n_members
        x = batch.coordinates.detach()
        cells = None if batch.cells is None or batch.pbc is None else batch.cells.detach()
        if n == 0:
            return Evaluated(
                torch.zeros(k, 0, dtype=torch.float64, device=self.device),
                batch.coordinates.new_zeros(0, 3) if derivatives else None,
                None if cells is None or not derivatives else torch.zeros_like(cells),
                batch.coordinates.new_zeros(k, 0, 3) if member_forces else None,
            )
        # Before the batch's species are those of the elements present.
        repelled = None if self.repulsion is None else self.repulsion.evaluate(batch)
        here, stacks = self.subset([e for e, count in enumerate(batch.counts) if count])
        batch = replace(
            batch,
            species=here.place[batch.species],
            counts=tuple(c for c in batch.counts if c),
        )
        track = (derivatives or member_forces) and self.engine != "native"
        if track:
            x = x.requires_grad_()
            cells = None if cells is None else cells.requires_grad_()
        with torch.set_grad_enabled(track):
            graph = here.aev(batch, x, cells)
        aevs = graph.detach()
        with torch.no_grad():
            gradient = torch.empty_like(aevs) if derivatives else None
            by_member = aevs.new_empty(k, *aevs.shape) if member_forces else None
            out = torch.empty(k, n, dtype=torch.float64, device=self.device)
            for place, rows in self.blocks(batch.counts):
                out[:, rows] = self.networks(
                    stacks[place],
                    aevs[rows],
                    None if gradient is None else gradient[rows],
                    None if by_member is None else by_member[:, rows],
                )
            out *= self.scales[:, None]

        def back(g: Tensor, keep: bool) -> tuple[Tensor, Tensor | None]:
            if not track:
                with torch.no_grad():
                    return native.vjp(here.aev.settings, batch, x, cells, g)
            wanted = [x] if cells is None else [x, cells]
            by_x, *by_cells = torch.autograd.grad(
                graph, wanted, g, retain_graph=keep, materialize_grads=True
            )
            return by_x, by_cells[0] if by_cells else None

        members = None
        if by_member is not None:
            members = torch.stack([back(g, True)[0] for g in by_member]) * k
        forces, by_cells = None, None
        if gradient is not None:
            forces, by_cells = back(gradient, False)
        if repelled is not None:
            out += repelled.atomic
            if members is not None:
                members += repelled.forces
            if forces is not None:
                forces += repelled.forces
            if by_cells is not None:
                by_cells += repelled.cells
        return Evaluated(out, forces, by_cells, members)

    def stress(self, batch: Batch, found: Evaluated) -> Tensor:
        """Stress (B, 3, 3), float64, hartree/angstrom^3; NaN where not periodic in 3 directions."""
        if batch.cells is None or batch.pbc is None:
            raise DataError("stress needs a periodic cell, and no conformer here has one")
        assert found.forces is not None
        by_strain = strain_gradient(
            batch, -found.forces, None if found.cells is None else -found.cells
        )
        volume = torch.linalg.det(batch.cells.double()).abs()
        return by_strain / torch.where(batch.pbc.all(1), volume, torch.nan)[:, None, None]

    # ---- many conformers ---------------------------------------------------------------------

    def predict(
        self,
        conformers: Conformers,
        *,
        forces: bool = False,
        stress: bool = False,
        atomic: bool = False,
        spread: bool = False,
        forces_std: bool = False,
        batch_size: int | None = None,
        progress: bool = False,
    ) -> Prediction:
        """Energies of any number of conformers and what else is asked for; see ``Prediction``.

        Conformers of the same elements are evaluated together, in chunks of ``batch_size`` or, by
        default, of about CHUNK_ATOMS atoms, whatever their order, which the result keeps.
        ``spread``: the standard deviation over members of the energies, and of the atomic energies
        where these are asked for; ``forces_std``: that of the forces. Raises DataError for an
        element that the model does not know, naming the atom.
        """
        check_conformers(conformers, "predict")
        self.check_known(conformers)
        m, a = len(conformers), conformers.total_atoms
        periodic = conformers.periodic
        real = np.float32 if self.dtype == torch.float32 else np.float64
        energies = np.zeros(m)
        found: dict[str, np.ndarray] = {}
        if forces:
            found["forces"] = np.zeros((a, 3), real)
        if stress:
            found["stress"] = np.zeros((m, 3, 3))
        if atomic:
            found["atomic_energies"] = np.zeros(a)
            if spread:
                found["atomic_energies_std"] = np.zeros(a)
        if forces_std:
            found["forces_std"] = np.zeros((a, 3), real)
        if spread:
            found["energy_std"] = np.zeros(m)
        with tqdm(total=m, unit=" conformers", disable=not progress, leave=False) as bar:
            for conformer, atom, part in conformers.in_memory():
                own = slice(conformer, conformer + len(part))
                atoms = slice(atom, atom + part.total_atoms)
                # Views of the rows of these conformers, or of their atoms.
                rows = {n: v[own if n in _PER_CONFORMER else atoms] for n, v in found.items()}
                by_member = self._predict(part, conformer, periodic, rows, batch_size, bar)
                energies[own] = by_member.mean(1)
                if spread:
                    found["energy_std"][own] = deviation(by_member)
        return Prediction(energies, **found)

    def _predict(
        self,
        conformers: Conformers,
        first: int,
        periodic: bool,
        found: dict[str, np.ndarray],
        batch_size: int | None,
        bar: tqdm,
    ) -> np.ndarray:
        """Energies (M, K) hartree of each member, of conformers in memory.

        ``first`` is the number of the first of them in the data that they are a part of, and
        ``periodic`` whether any of that data is periodic.
        ``found`` has an array, which is filled, for each quantity of ``Prediction`` that is asked
        for.
        """
        loader = BatchLoader(
            conformers,
            1,
            self.settings.elements,
            dtype=self.dtype,
            device=self.device,
            labels=(),
            periodic=periodic,
            first=first,
        )
        assert not loader.streams  # the atoms of its batches are those of ``conformers``
        m = len(conformers)
        forces, stress, forces_std = (found.get(n) for n in ("forces", "stress", "forces_std"))
        atomic, atomic_std = found.get("atomic_energies"), found.get("atomic_energies_std")
        if stress is not None and m and conformers.cells is None:
            raise DataError("stress needs a periodic cell, and no conformer here has one")
        composition = conformers.composition(self.settings.elements)
        energies = np.zeros((m, self.n_members))
        for chunk in chunks(composition, batch_size):
            batch = loader.batch(torch.as_tensor(chunk, device=self.device))
            batch = replace(batch, index=batch.index + first)  # for messages
            result = self.evaluate(
                batch,
                derivatives=forces is not None or stress is not None,
                member_forces=forces_std is not None,
            )
            sums = torch.zeros(len(batch), self.n_members, dtype=torch.float64, device=self.device)
            sums.index_add_(0, batch.conformer, result.atomic.t())
            energies[chunk] = sums.cpu().numpy()
            atoms = batch.data_atoms.cpu().numpy()
            if forces is not None and result.forces is not None:
                forces[atoms] = result.forces.cpu().numpy()
            if stress is not None:
                stress[chunk] = self.stress(batch, result).cpu().numpy()
            if atomic is not None:
                each = torch.as_tensor(self.self_energies, device=self.device)
                per_atom = (result.atomic + each[:, batch.species]).cpu().numpy()
                atomic[atoms] = per_atom.mean(0)
                if atomic_std is not None:
                    atomic_std[atoms] = deviation(per_atom.T)
            if forces_std is not None and result.member_forces is not None:
                each_force = result.member_forces.movedim(0, -1).cpu().numpy()
                forces_std[atoms] = deviation(each_force)
            bar.update(len(chunk))
        energies += composition @ self.self_energies.T
        return energies
