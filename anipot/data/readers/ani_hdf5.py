"""HDF5 files in the layouts of the ANI data sets: one group a molecule (or a formula), any nesting.

ANI-1 release: ``coordinates energies species smiles``, and ``coordinatesHE energiesHE`` for the
high-energy extras (Smith, Isayev, Roitberg, Sci. Data 4, 170193, 2017). ANI-1x release:
``atomic_numbers coordinates`` and labels named ``method.property``, NaN where there is none
(Smith et al., Sci. Data 7, 134, 2020). COMP6 and ANI-1r: ``coordinates energies forces species
cm5 hirdipole lot``, where ``forces`` holds the gradient. TorchANI's own: species (n, atoms) with
-1 for padding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from anipot.data import mapping
from anipot.data.conformers import Conformers
from anipot.data.mapping import ReadOptions, log
from anipot.data.readers import periodic
from anipot.data.readers.declared import ArrayScales, text_of
from anipot.data.readers.hdf5_groups import Hdf5, values_of
from anipot.data.readers.hdf5_plan import Block, Plan
from anipot.errors import AnipotError, DataError

#: Makes an array of a shape and type, in memory or on the disk.
Empty = Callable[[tuple[int, ...], np.dtype], np.ndarray]


def is_hdf5(path: Path) -> bool:
    """Whether the file begins as an HDF5 file does."""
    return bool(h5py.is_hdf5(path))


def read_ani_hdf5(path: Path, options: ReadOptions, empty: Empty = np.empty) -> Conformers:
    """All molecules of an ANI HDF5 file, opened read-only.

    Two passes: the first finds the groups and their shapes, then every array is allocated once
    and each dataset is read straight into its place, so that loading takes the memory of the
    result and no more; ``empty`` makes the arrays. Units are those that ``units`` attributes of
    the datasets or attributes such as ``energy_unit`` of the file declare. Raises DataError naming
    file, group and reason for all that cannot be used.
    """
    reader = None
    try:
        with h5py.File(path, "r") as file:
            reader = _Reader(Hdf5(file, path), options)
            return reader.read(empty)
    except AnipotError:
        raise
    except MemoryError as e:
        raise DataError(f"{path}: does not fit into memory ({e}); pack it into a store") from e
    # h5py's ways to say so
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as e:
        at = f", while {reader.at} was read" if reader is not None and reader.at else ""
        if "required filter" in str(e) or "plugin" in str(e):
            raise DataError(
                f"{path}: is compressed by a filter that is not installed ({e}); rewrite it with "
                "h5repack -f GZIP=1"
            ) from e
        raise DataError(f"{path}: not an HDF5 file, or cut short or damaged ({e}){at}") from e


class _Reader:
    """The second pass."""

    def __init__(self, h5: Hdf5, options: ReadOptions) -> None:
        self.h5, self.file, self.path, self.options = h5, h5.file, h5.path, options
        self.at = ""

    def read(self, empty: Empty) -> Conformers:
        self.plan = plan = Plan(self.h5, self.options)
        blocks, scales = plan.blocks, plan.units.scales()
        counts = np.concatenate([b.counts for b in blocks])
        m, a = len(counts), int(counts.sum())
        if m == 0:
            reason = (
                f"none of {plan.dropped:,} has a label {blocks[0].energy!r}"
                if plan.dropped
                else "it is empty"
            )
            raise DataError(f"{self.path}: no conformer to read: {reason}")
        offsets = np.zeros(m + 1, dtype=np.int64)
        np.cumsum(counts, out=offsets[1:])
        del counts
        double = any(b.dtype.itemsize > 4 or b.dtype.kind != "f" for b in blocks)
        numbers = empty((a,), np.dtype(np.uint8))
        coordinates = empty((a, 3), np.dtype(np.float64 if double else np.float32))
        labelled = any(b.energy for b in blocks)
        energies = np.full(m, np.nan) if labelled else None
        forces = None
        kinds = [b.forces_dtype for b in blocks if b.forces_dtype is not None]
        if kinds:
            wide = any(k.itemsize > 4 or k.kind != "f" for k in kinds)
            forces = empty((a, 3), np.dtype(np.float64 if wide else np.float32))
        boxes = _Boxes(m, blocks, empty)
        molecule = np.empty(m, dtype=np.int32)
        places: dict[str, int] = {}
        has_forces = np.ones(m, dtype=bool)
        sign = self.sign(bool(kinds))
        start = 0
        for b in blocks:
            self.at = self.h5.where(b.group)
            end = start + len(b.counts)
            conformers, atoms = slice(start, end), slice(int(offsets[start]), int(offsets[end]))
            start = end
            molecule[conformers] = places.setdefault(b.group, len(places))
            if b.numbers.ndim == 1:
                numbers[atoms].reshape(-1, len(b.numbers) or 1)[:] = b.numbers
            else:
                rows = b.numbers if b.keep is None else b.numbers[b.keep]
                numbers[atoms] = rows[rows > 0]
            self.fill(b, b.coordinates, coordinates[atoms], scales.length)
            if energies is not None and b.energies is not None:
                energies[conformers] = b.energies * scales.energy
                b.energies = None
            if forces is not None and b.forces is not None:
                has_forces[conformers] = self.fill(b, b.forces, forces[atoms], sign * scales.forces)
            elif forces is not None:
                forces[atoms] = np.nan
                has_forces[conformers] = False
            self.box(b, conformers, boxes, scales)
        return self.conformers(
            numbers,
            coordinates,
            offsets,
            energies,
            forces,
            molecule,
            tuple(places),
            has_forces,
            boxes,
        )

    def box(self, b: Block, rows: slice, boxes: _Boxes, scales: ArrayScales) -> None:
        """Cell, periodic directions and stress of a block."""
        if not b.more:
            return
        where = self.h5.where(b.group)
        kept = slice(None) if b.keep is None else b.keep

        def values(what: str) -> tuple[np.ndarray | None, str]:
            source = b.more.get(what)
            if isinstance(source, str):
                named = f"{where}: {source!r}"
                return values_of(self.file[f"{b.group}/{source}"], named), named
            return source, f"{where}: attribute {what}"

        cells, named = values("cell")
        if cells is not None:
            cells = periodic.cells_of(cells, b.n, named)[kept] * scales.cell
        pbc, named = values("pbc")
        if pbc is not None:
            pbc = periodic.pbc_of(pbc, b.n, named)[kept]
        box = periodic.Box.of(cells, pbc, where)
        if box.cells is not None and boxes.cells is not None:
            boxes.cells[rows], boxes.pbc[rows] = box.cells, box.pbc
        stress = None
        for what, factor in (("stress", scales.stress), ("virial", scales.virial)):
            raw, named = values(what)
            if raw is None:
                continue
            key = str(b.more[what])
            found = periodic.matrices_of(raw, b.n, named)[kept]
            missing = ~np.isfinite(found).all(axis=(1, 2))
            if missing.any() and ("." not in key or np.isinf(found).any()):
                raise DataError(
                    f"{named} of conformer {int(np.argmax(missing))} holds a number that is not "
                    "finite"
                )
            found[missing] = np.nan
            found *= factor * self.options.stress_factor
            if what == "virial":
                found = box.stress_from_virial(found, where)
                if stress is not None:
                    periodic.warn_of_contradiction(stress, found, where)
                    continue
            stress = found
        if stress is not None and boxes.stress is not None:
            boxes.stress[rows] = stress

    def fill(self, b: Block, key: str, out: np.ndarray, scale: float) -> np.ndarray:
        """Read a dataset of a block into ``out`` (atoms, 3). (n,) bool: conformers that have it."""
        there = np.ones(len(b.counts), dtype=bool)
        if not len(out):
            return there
        data = self.file[f"{b.group}/{key}"]
        if b.keep is None and b.numbers.ndim == 1:
            data.read_direct(out.reshape(data.shape))
        else:
            values = data[()].reshape(b.n, -1, 3)
            kept = slice(None) if b.keep is None else b.keep
            if b.numbers.ndim == 2:
                out[:] = values[kept][b.numbers[kept] > 0]
            else:
                out.reshape(-1, len(b.numbers), 3)[:] = values[kept]
        finite = np.isfinite(out)
        if not finite.all():
            starts = np.cumsum(b.counts) - b.counts
            # reduceat needs every segment to hold an atom; a conformer without one has nothing to
            # lack.
            full = b.counts > 0
            there[full] = np.logical_and.reduceat(finite.all(axis=1), starts[full])
            if key == b.coordinates or "." not in key or np.isinf(out).any():
                first = int(np.argmin(there))
                raise DataError(
                    f"{self.h5.where(b.group)}: {key!r} of conformer {first} holds a "
                    "number that is not finite"
                )
            out[np.repeat(~there, b.counts)] = np.nan
        if scale != 1.0:
            out *= scale
        return there

    def sign(self, forces: bool) -> float:
        if self.options.forces_sign is None and self.plan.gradient and forces:
            log.warning(
                "%s: holds cm5 or hirdipole, as COMP6 and ANI-1r files do: their 'forces' are "
                "gradients and were negated; %s reads them as they are",
                self.path,
                mapping.keyword("forces_sign", "forces"),
            )
            return -1.0
        return self.options.sign

    def conformers(
        self,
        numbers: np.ndarray,
        coordinates: np.ndarray,
        offsets: np.ndarray,
        energies: np.ndarray | None,
        forces: np.ndarray | None,
        molecule: np.ndarray | None,
        groups: tuple[str, ...],
        has_forces: np.ndarray,
        boxes: _Boxes,
    ) -> Conformers:
        plan, blocks, masks = self.plan, self.plan.blocks, boxes.masks
        stress = boxes.stress
        if "stress" in masks and not masks["stress"].any():
            del masks["stress"]
            stress = None
        if energies is not None and not np.isfinite(energies).all():
            masks["energies"] = np.isfinite(energies)
        if forces is not None and not has_forces.all():
            masks["forces"] = has_forces
        if plan.dropped:
            log.warning(
                "%s: %d conformers without a label %r left out; %s keeps them",
                self.path, plan.dropped, blocks[0].energy,
                mapping.keyword("keep_unlabelled", True),
            )  # fmt: skip
        if plan.single_energies:
            log.warning(
                "%s: energies are stored in single precision: a total energy of -200 hartree is "
                "known to "
                "0.01 kcal/mol only", self.path,
            )  # fmt: skip
        names = tuple(name.strip("/") or self.path.stem for name in groups)
        by = "molecule"
        if any(b.numbers.ndim == 2 for b in blocks):
            molecule, names = (
                None,
                (),
            )  # such groups hold many molecules: Conformers groups by formula
        elif plan.atomic_numbers_layout and all(
            mapping.is_formula(b.group.rsplit("/", 1)[-1], b.numbers) for b in blocks
        ):
            by = "formula"
        level = text_of(self.h5.about.get("level_of_theory", 0)) or plan.lot
        if not level and blocks[0].energy and "." in blocks[0].energy:
            level = blocks[0].energy.rpartition(".")[0]
        read = {"energies": energies, "forces": forces, "stress": stress}
        labels = {name: array is not None for name, array in read.items()}
        # Labels of other levels of theory are left out on purpose.
        beside = [key for key in plan.not_read if "." not in key or not labels["energies"]]
        mapping.hint_unread_labels(
            str(self.path), {**labels, "virial": labels["stress"]}, beside, self.options
        )
        return Conformers(
            numbers,
            coordinates,
            offsets,
            energies=energies,
            forces=forces,
            molecule=molecule,  # type: ignore[arg-type]
            molecule_names=names,
            masks=masks,
            grouped_by=by,
            level_of_theory=level,
            sources=(self.path.name,),
            dropped=plan.dropped,
            file_units=plan.units.scales().units,
            cells=boxes.cells if boxes.pbc.any() else None,
            pbc=boxes.pbc if boxes.pbc.any() else None,
            stress=stress,
            not_read=tuple(sorted(plan.not_read)),
        )


class _Boxes:
    """Cells (m, 3, 3), periodic directions (m, 3) and stresses (m, 3, 3) of all conformers."""

    def __init__(self, m: int, blocks: list[Block], empty: Empty) -> None:
        self.cells = self.stress = None
        self.pbc = np.zeros((m, 3) if any(b.more for b in blocks) else (0, 3), dtype=bool)
        if any("cell" in b.more for b in blocks):
            self.cells = empty((m, 3, 3), np.dtype(np.float64))
            self.cells[:] = 0.0
        if any("stress" in b.more or "virial" in b.more for b in blocks):
            self.stress = empty((m, 3, 3), np.dtype(np.float64))
            self.stress[:] = np.nan

    @property
    def masks(self) -> dict[str, np.ndarray]:
        """The mask of stress where some conformers lack it."""
        if self.stress is None:
            return {}
        there = np.asarray(np.isfinite(self.stress).all(axis=(1, 2)))
        return {} if there.all() else {"stress": there}
