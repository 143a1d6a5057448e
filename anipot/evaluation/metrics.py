"""Errors of predicted energies: MAE, RMSE, largest error and R^2, each with its N.

Reports are in kcal/mol, those of crystals in eV and meV/atom. Total energies of molecules span
hundreds of hartree because molecules differ in composition, so an R^2 of total energies is 1 to
many digits whatever the model does. All R^2 here are therefore of the energy above the model's
self energies, the part that the networks have to learn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anipot.data.conformers import Conformers
from anipot.data.pieces import ROWS, number_groups
from anipot.errors import DataError
from anipot.evaluation.error_stats import ErrorStats
from anipot.evaluation.vector_errors import VectorErrors
from anipot.units import HARTREE_TO_GPA, energy_unit, hartree_to

#: A label (a formula, a molecule, a number of atoms) and the errors of the conformers under it.
Row = tuple[str, ErrorStats]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Predicted energies beside the reference, for the M conformers that have a reference.

    ===================  =========  =================  ============================================
    array                shape      unit, type         meaning
    ===================  =========  =================  ============================================
    ``conformer``        (M,)       int64              number of the conformer in the data evaluated
    ``reference``        (M,)       hartree, float64   total energies of the data set
    ``predicted``        (M,)       hartree, float64   total energies of the model
    ``self_energy``      (M,)       hartree, float64   sum of the model's self energies
    ``n_atoms``          (M,)       int32              atoms
    ``heavy_atoms``      (M,)       int32              atoms other than hydrogen
    ``molecule``         (M,)       int32              index in ``molecule_names``
    ``formula``          (M,)       int32              index in ``formula_names``
    ===================  =========  =================  ============================================

    ``grouped_by`` is what the groups of the data set are, ``"molecule"`` or ``"formula"``.
    ``forces`` and ``stress`` (hartree/angstrom, hartree/angstrom^3) are of the atoms and conformers
    that have a reference, where they were predicted. All errors that the methods give are
    predicted - reference, in ``unit``: kcal/mol (per atom: kcal/mol/atom) for molecules, eV (per
    atom: meV/atom) for crystals; stress is in GPa.
    """

    conformer: np.ndarray
    reference: np.ndarray
    predicted: np.ndarray
    self_energy: np.ndarray
    n_atoms: np.ndarray
    heavy_atoms: np.ndarray
    molecule: np.ndarray
    molecule_names: tuple[str, ...]
    formula: np.ndarray
    formula_names: tuple[str, ...]
    grouped_by: str = "molecule"
    unit: str = "kcal/mol"
    forces: VectorErrors | None = None
    stress: VectorErrors | None = None

    @classmethod
    def of(
        cls,
        conformers: Conformers,
        predicted: np.ndarray,
        self_energy: np.ndarray,
        forces: np.ndarray | None = None,
        stress: np.ndarray | None = None,
    ) -> Evaluation:
        """Predictions for all of ``conformers``: total energies and self energies, (M,) hartree.

        ``forces`` (A, 3) and ``stress`` (M, 3, 3; NaN where there is no volume) as predicted.
        Conformers without an energy label are left out. Raises DataError when none has one, when a
        prediction or a label is not finite (naming the conformer), or when a length is wrong.
        """
        m = len(conformers)
        given = {"predicted": predicted, "self_energy": self_energy}
        arrays = {name: np.asarray(a, dtype=np.float64) for name, a in given.items()}
        for name, array in arrays.items():
            if array.shape != (m,):
                raise DataError(f"{name} has shape {array.shape}, but {m} conformers need ({m},)")
        has_energy = conformers.has("energies")
        keep = np.flatnonzero(has_energy)
        if not len(keep):
            raise DataError(
                f"none of the {m:,} conformers has a reference energy, so there is nothing to "
                "compare with; use predict for conformers without labels"
            )
        reference = np.empty(m)
        n_atoms, heavy, molecule = (np.empty(m, dtype=np.int32) for _ in range(3))
        crystals = conformers.pbc is not None
        for start, part in conformers.blocks():
            own = slice(start, start + len(part))
            assert part.energies is not None
            reference[own], molecule[own] = part.energies, part.molecule
            n_atoms[own], heavy[own] = part.n_atoms, part.heavy_atoms
            if part.pbc is not None:
                crystals &= bool(part.pbc[has_energy[own]].all())
        for name, array in {"reference energy": reference, **arrays}.items():
            bad = keep[~np.isfinite(array[keep])]
            if len(bad):
                raise DataError(
                    f"the {name.replace('_', ' ')} of {conformers.describe(bad[0])} is not finite "
                    f"({len(bad)} of {len(keep)} are not); look at its geometry and label, or "
                    "leave it out"
                )
        formula, formula_names = conformers.formulas()
        of_forces = of_stress = None
        if forces is not None:
            atoms = np.repeat(has_energy & conformers.has("forces"), n_atoms)
            of_forces = VectorErrors.of(conformers.forces, forces, atoms)
        if stress is not None:
            stressed = has_energy & conformers.has("stress")
            stressed &= np.isfinite(stress).all(axis=(1, 2))
            of_stress = VectorErrors.of(conformers.stress, stress, stressed)

        def kept(array: np.ndarray) -> np.ndarray:
            """Without those that lack an energy; no copy where none does."""
            return array if len(keep) == m else array[keep]

        return cls(
            conformer=keep,
            reference=kept(reference),
            predicted=kept(arrays["predicted"]),
            self_energy=kept(arrays["self_energy"]),
            n_atoms=kept(n_atoms),
            heavy_atoms=kept(heavy),
            molecule=kept(molecule),
            molecule_names=conformers.molecule_names,
            formula=kept(formula),
            formula_names=formula_names,
            grouped_by=conformers.grouped_by,
            unit="eV" if crystals else "kcal/mol",
            forces=of_forces,
            stress=of_stress,
        )

    def in_unit(self, unit: str) -> Evaluation:
        """The same, with errors in another unit of energy."""
        return replace(self, unit=energy_unit(unit))

    def __len__(self) -> int:
        return len(self.reference)

    # ---- arrays --------------------------------------------------------------------------------

    @property
    def errors(self) -> np.ndarray:
        """(M,) in ``unit``, with sign: predicted - reference."""
        return (self.predicted - self.reference) * self.scale

    @property
    def reference_above(self) -> np.ndarray:
        """(M,) in ``unit``: reference energies above the self energies."""
        return (self.reference - self.self_energy) * self.scale

    @property
    def predicted_above(self) -> np.ndarray:
        """(M,) in ``unit``: predicted energies above the self energies (what the networks give)."""
        return (self.predicted - self.self_energy) * self.scale

    @property
    def scale(self) -> float:
        """Value of a hartree in ``unit``."""
        return hartree_to(self.unit)

    @property
    def per_atom_unit(self) -> tuple[str, float]:
        """Unit of errors per atom, and what a hartree is in it."""
        return (
            ("meV/atom", 1000 * self.scale)
            if self.unit == "eV"
            else (f"{self.unit}/atom", self.scale)
        )

    # ---- all conformers ------------------------------------------------------------------------

    @property
    def energy(self) -> ErrorStats:
        """Errors of molecular energies; R^2 of energies above the self energies."""
        return ErrorStats.of(self.reference_above, self.predicted_above)

    @property
    def per_atom(self) -> ErrorStats:
        """Errors divided by the number of atoms; R^2 of the energies per atom."""
        atoms = self.n_atoms / (self.per_atom_unit[1] / self.scale)
        return ErrorStats.of(self.reference_above / atoms, self.predicted_above / atoms)

    @property
    def relative(self) -> ErrorStats | None:
        """Errors of relative energies of the conformers of a molecule.

        Convention: reference and predicted energies are each taken relative to their own mean over
        the evaluated conformers of the same molecule and formula (a group of a file in which
        formulas differ is no single molecule). So a constant error of a molecule cancels, and no
        conformer is singled out as the zero. Molecules with one conformer are left out (their
        relative error is 0 by construction). None when no molecule has two.
        """
        group = self._conformer_groups()
        several = (np.bincount(group) > 1)[group]
        if not several.any():
            return None
        kept = slice(None) if several.all() else several  # no copy where all are
        return ErrorStats.of(
            _centred(self.reference_above, group)[kept],
            _centred(self.predicted_above, group)[kept],
        )

    def _conformer_groups(self) -> np.ndarray:
        """(M,) int32: molecule and formula together, numbered from 0."""
        group, found = np.empty(len(self), dtype=np.int32), dict[int, int]()
        for start in range(0, len(self), ROWS):
            own = slice(start, start + ROWS)
            pair = self.molecule[own].astype(np.int64) * len(self.formula_names)
            group[own] = number_groups(pair + self.formula[own], found)
        return group

    # ---- broken down ---------------------------------------------------------------------------

    def by_heavy_atoms(self) -> list[Row]:
        """Errors of molecular energies for each number of heavy atoms, ascending."""
        return self._rows(self.heavy_atoms, str)

    def by_formula(self) -> list[Row]:
        """Errors of molecular energies for each formula, small molecules first."""
        rows = self._rows(self.formula, lambda i: self.formula_names[i])
        size: dict[str, tuple[int, int]] = {}
        index, first = np.unique(self.formula, return_index=True)
        for i, f in zip(index, first, strict=True):
            size[self.formula_names[i]] = (int(self.heavy_atoms[f]), int(self.n_atoms[f]))
        return sorted(rows, key=lambda row: (*size[row[0]], row[0]))

    def by_molecule(self) -> list[Row]:
        """Errors of molecular energies for each group of the file, in its order."""
        return self._rows(self.molecule, lambda i: self.molecule_names[i])

    def _rows(self, group: np.ndarray, label: Callable[[int], str]) -> list[Row]:
        # One sort instead of a mask a group: a data set may have tens of thousands of groups.
        order = np.argsort(group, kind="stable")
        ordered = group[order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

        def above(energies: np.ndarray, part: np.ndarray) -> np.ndarray:
            """In ``unit``: energies above the self energies, of a group's conformers alone."""
            return (energies[part] - self.self_energy[part]) * self.scale

        return [
            (
                str(label(int(group[part[0]]))),
                ErrorStats.of(above(self.reference, part), above(self.predicted, part)),
            )
            for part in np.split(order, starts[1:])
        ]

    def worst(self, k: int = 10) -> np.ndarray:
        """(k,) numbers, in the data evaluated, of the conformers with the largest errors first."""
        return self.conformer[self._worst(k)]

    def _worst(self, k: int) -> np.ndarray:
        return np.argsort(-np.abs(self.errors), kind="stable")[: max(k, 0)]

    # ---- out -----------------------------------------------------------------------------------

    def to_dict(self, worst: int = 10) -> dict[str, Any]:
        """Everything above, ready for JSON (NaN as None). The arrays are not in it."""

        def rows(of: Iterable[Row]) -> list[dict[str, Any]]:
            return [{"label": label, **stats.to_dict()} for label, stats in of]

        errors = self.errors
        return {
            "unit": self.unit,
            "per_atom_unit": self.per_atom_unit[0],
            "n_conformers": len(self),
            "n_groups": self.n_groups,
            "grouped_by": self.grouped_by,
            "energy": self.energy.to_dict(),
            "per_atom": self.per_atom.to_dict(),
            "relative": None if (relative := self.relative) is None else relative.to_dict(),
            "forces": None
            if self.forces is None
            else self.forces.to_dict(self.scale, f"{self.unit}/angstrom", direction=True),
            "stress": None
            if self.stress is None
            else self.stress.to_dict(HARTREE_TO_GPA, "GPa", direction=False),
            "by_heavy_atoms": rows(self.by_heavy_atoms()),
            "by_formula": rows(self.by_formula()),
            "by_molecule": rows(self.by_molecule()),
            "worst": [
                {
                    "conformer": int(self.conformer[i]),
                    "molecule": self.molecule_names[self.molecule[i]],
                    "formula": self.formula_names[self.formula[i]],
                    "error": float(errors[i]),
                }
                for i in self._worst(worst)
            ],
        }

    @property
    def n_groups(self) -> int:
        """Number of molecules (or formulas: ``grouped_by``) among the conformers."""
        return int(np.count_nonzero(np.bincount(self.molecule)))

    def summary(self, name: str = "") -> str:
        """A few lines of text: the errors of energies, energies per atom and relative energies.

        ``name`` is what was evaluated, for example ``"test"``.
        """
        head = f"{name}: " if name else ""
        lines = [
            f"{head}{_plural(len(self), 'conformer')} of {_plural(self.n_groups, self.grouped_by)}"
        ]
        parts = [
            ("energy", self.energy, self.unit),
            ("per atom", self.per_atom, self.per_atom_unit[0]),
            ("relative", self.relative, self.unit),
        ]
        if self.forces is not None:
            parts.append(("forces", self.forces.components(self.scale), f"{self.unit}/angstrom"))
        if self.stress is not None:
            parts.append(("stress", self.stress.components(HARTREE_TO_GPA), "GPa"))
        for label, stats, unit in parts:
            if stats is None:
                lines.append(f"  {label:<10} no {self.grouped_by} has two conformers")
                continue
            mae, rmse, largest = (_number(v) for v in (stats.mae, stats.rmse, stats.max))
            lines.append(
                f"  {label:<10} MAE {mae:<6}  RMSE {rmse:<6}  max {largest:<6} {unit:<17}  "
                f"R2 {r2_text(stats.r2)}  N {stats.n}"
                + (f"  cosine {self._cosine}" if label == "forces" else "")
            )
        return "\n".join(lines)

    @property
    def _cosine(self) -> str:
        return "-" if self.forces is None else f"{self.forces.cosine:.4f}"

    def __str__(self) -> str:
        return self.summary()

    @staticmethod
    def table(rows: Sequence[Row], title: str, unit: str = "kcal/mol") -> str:
        """Rows of one of the ``by_...`` methods as aligned text, for a terminal or a log.

        Errors are in ``unit``, which stands in the title's line; numbers are aligned to the right.
        """
        head = ("", "N", "MAE", "RMSE", "max", "R2")
        cells = [
            (label, str(s.n), f"{s.mae:.3f}", f"{s.rmse:.3f}", f"{s.max:.3f}", r2_text(s.r2))
            for label, s in rows
        ]
        widths = [max(len(row[c]) for row in [head, *cells]) for c in range(len(head))]
        lines = [f"{title} ({unit})"]
        for row in [head, *cells]:
            numbers = "  ".join(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))
            lines.append(f"  {row[0].ljust(widths[0])}  {numbers}")
        return "\n".join(lines)


def _centred(values: np.ndarray, group: np.ndarray) -> np.ndarray:
    """``values`` (M,) minus their mean over each group; exactly 0 where a group's are all equal."""
    # Measured from a member of the group first, equal values stay exactly equal in the mean.
    some = np.empty(int(group.max()) + 1)
    some[group] = values
    shifted = values - some[group]
    shifted -= (np.bincount(group, shifted) / np.bincount(group))[group]
    return shifted


def _plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def _number(value: float) -> str:
    """Three digits that count, without an exponent where that reads well."""
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{digits}f}"


def r2_text(value: float) -> str:
    """Five decimals, cut and not rounded: only a perfect prediction is 1.00000."""
    if math.isnan(value):
        return "-".rjust(7)
    return f"{math.floor(value * 1e5) / 1e5:.5f}"
