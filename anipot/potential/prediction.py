"""Prediction: what a potential says of some conformers, and the files it can be written to."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import ArrayLike

from anipot import units
from anipot.data.conformers import Conformers
from anipot.elements import symbols_of
from anipot.errors import SettingsError
from anipot.system.files import atomic_write, write_text


def deviation(members: ArrayLike) -> np.ndarray:
    """Sample standard deviation (ddof = 1) over the members of an ensemble, the last axis.

    NaN for one member: nothing is known of what it would be.
    """
    values = np.asarray(members)
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan, values.dtype)
    spread: np.ndarray = values.std(axis=-1, ddof=1)
    return spread


def disagreement(energy_std: ArrayLike, n_atoms: ArrayLike) -> np.ndarray:
    """Disagreement of the members of an ensemble: std / sqrt(N).

    The sample standard deviation of the energies over the members (ddof = 1), divided by the square
    root of the number of atoms, in the unit of ``energy_std``. Source: Smith, Nebgen, Lubbers,
    Isayev, Roitberg, J. Chem. Phys. 2018, 148, 241733.
    """
    spread: np.ndarray = np.asarray(energy_std) / np.sqrt(np.maximum(n_atoms, 1))
    return spread


@dataclass(frozen=True, eq=False)
class Prediction:
    """Prediction for M conformers with A atoms; what was not asked for is None.

    ``energies`` (M,) hartree; ``forces`` (A, 3) hartree/angstrom in the order of the conformers'
    atoms; ``stress`` (M, 3, 3) hartree/angstrom^3 with ASE's sign (NaN where a conformer is not
    periodic in all directions); ``atomic_energies`` (A,) hartree: network output plus self energy.
    Of an ensemble: ``energy_std`` (M,) hartree, ``forces_std`` (A, 3) hartree/angstrom and
    ``atomic_energies_std`` (A,) hartree, sample standard deviations over the members.
    """

    energies: np.ndarray
    forces: np.ndarray | None = None
    stress: np.ndarray | None = None
    atomic_energies: np.ndarray | None = None
    energy_std: np.ndarray | None = None
    forces_std: np.ndarray | None = None
    atomic_energies_std: np.ndarray | None = None

    def disagreement(self, conformers: Conformers) -> np.ndarray:
        """(M,) hartree: how far the members of an ensemble disagree; see ``disagreement``."""
        if self.energy_std is None:
            raise SettingsError("only an ensemble's prediction has a disagreement of its members")
        return disagreement(self.energy_std, conformers.n_atoms)

    def rows(self, conformers: Conformers, most: int | None = None) -> list[dict[str, Any]]:
        """A plain dictionary a conformer, with the unit in each name; of forces, the largest.

        At most ``most``, the first ones.

        Relative energies are above the lowest conformer of the same formula. Where a conformer has
        a reference energy, the error (predicted - reference) is there too.
        """
        formula, names = conformers.formulas()
        lowest = np.full(len(names), np.inf)
        np.minimum.at(lowest, formula, self.energies)
        relative = (self.energies - lowest[formula]) * units.HARTREE_TO_KCALMOL
        labelled = conformers.has("energies")
        spread = np.zeros(0) if self.energy_std is None else self.disagreement(conformers)
        forces_std = self.forces_std
        if forces_std is not None and not np.isfinite(forces_std).all():
            forces_std = None
        rows = []
        for i, energy in enumerate(self.energies[:most]):
            row: dict[str, Any] = {
                "frame": i,
                "formula": names[formula[i]],
                "energy_hartree": float(energy),
                "relative_kcalmol": float(relative[i]),
            }
            if labelled[i] and conformers.energies is not None:
                error = energy - conformers.energies[i]
                row["error_kcalmol"] = float(error * units.HARTREE_TO_KCALMOL)
            if self.energy_std is not None and np.isfinite(self.energy_std[i]):
                row["energy_std_kcalmol"] = float(self.energy_std[i] * units.HARTREE_TO_KCALMOL)
                row["disagreement_kcalmol"] = float(spread[i] * units.HARTREE_TO_KCALMOL)
            if self.forces is not None:
                own = self.forces[conformers.offsets[i] : conformers.offsets[i + 1]]
                norm = np.linalg.norm(own, axis=1).max(initial=0.0)
                row["max_force_kcalmol_angstrom"] = float(norm * units.HARTREE_TO_KCALMOL)
            if forces_std is not None:
                own = forces_std[conformers.offsets[i] : conformers.offsets[i + 1]]
                norm = np.linalg.norm(own, axis=1).max(initial=0.0)
                row["max_force_std_kcalmol_angstrom"] = float(norm * units.HARTREE_TO_KCALMOL)
            rows.append(row)
        return rows

    def table(self, conformers: Conformers, most: int = 50) -> str:
        """The rows as text for a terminal, at most ``most`` of them."""
        rows = self.rows(conformers, most)
        heads = {
            "frame": ("frame", "{:d}"),
            "formula": ("formula", "{}"),
            "energy_hartree": ("energy / hartree", "{:.8f}"),
            "relative_kcalmol": ("relative / kcal/mol", "{:.3f}"),
            "error_kcalmol": ("error / kcal/mol", "{:.3f}"),
            "disagreement_kcalmol": ("disagreement / kcal/mol", "{:.3f}"),
            "max_force_kcalmol_angstrom": ("max force / kcal/mol/A", "{:.3f}"),
            "max_force_std_kcalmol_angstrom": ("max force std / kcal/mol/A", "{:.3f}"),
        }
        columns = [k for k in heads if any(k in row for row in rows)]
        cells = [[heads[k][0] for k in columns]]
        for row in rows:
            cells.append([heads[k][1].format(row[k]) if k in row else "" for k in columns])
        widths = [max(len(line[c]) for line in cells) for c in range(len(columns))]
        lines = ["  ".join(v.rjust(w) for v, w in zip(line, widths, strict=True)) for line in cells]
        if len(self.energies) > most:
            lines.append(f"... {len(self.energies) - most:,} more; all of them with --out FILE")
        return "\n".join(lines)

    def to_atoms(self, conformers: Conformers) -> list[ase.Atoms]:
        """ASE frames with energy (eV), forces (eV/angstrom) and stress (eV/angstrom^3).

        Of an ensemble, ``info`` has ``energy_std`` and ``disagreement`` (eV), and ``arrays`` has
        ``forces_std`` and ``atomic_energies_std``, where they were asked for.
        """
        frames = []
        for i, energy in enumerate(self.energies):
            own = slice(conformers.offsets[i], conformers.offsets[i + 1])
            periodic = conformers.pbc is not None and conformers.pbc[i].any()
            frame = ase.Atoms(
                symbols_of(conformers.atomic_numbers[own]),
                positions=conformers.coordinates[own],
                cell=conformers.cells[i] if periodic and conformers.cells is not None else None,
                pbc=conformers.pbc[i] if periodic and conformers.pbc is not None else False,
            )
            results: dict[str, Any] = {"energy": float(energy) * units.HARTREE_TO_EV}
            if self.forces is not None:
                results["forces"] = self.forces[own] * units.HARTREE_TO_EV
            if self.stress is not None and np.isfinite(self.stress[i]).all():
                results["stress"] = self.stress[i] * units.HARTREE_TO_EV
            if self.atomic_energies is not None:
                results["energies"] = self.atomic_energies[own] * units.HARTREE_TO_EV
            if self.energy_std is not None and np.isfinite(self.energy_std[i]):
                frame.info["energy_std"] = float(self.energy_std[i]) * units.HARTREE_TO_EV
                spread = float(disagreement(self.energy_std[i], len(frame)))
                frame.info["disagreement"] = spread * units.HARTREE_TO_EV
            for name in ("forces_std", "atomic_energies_std"):
                values = getattr(self, name)
                if values is not None and np.isfinite(values[own]).all():
                    frame.arrays[name] = values[own] * units.HARTREE_TO_EV
            frame.info["molecule"] = conformers.molecule_names[conformers.molecule[i]]
            frame.calc = SinglePointCalculator(frame, **results)
            frames.append(frame)
        return frames

    def write(self, conformers: Conformers, path: str | Path) -> Path:
        """Write ``.json``, ``.csv`` or ``.extxyz``/``.xyz``, by the file's ending (atomic).

        JSON and CSV are in hartree, kcal/mol and kcal/mol/angstrom, as their names say; extxyz
        is in ASE's eV. A CSV file has a line a conformer, so of forces only the largest, and no
        stress. Raises SettingsError for another ending.
        """
        path = Path(path)
        kind = checked_ending(path)
        if kind == ".json":
            rows = self.rows(conformers)
            for i, row in enumerate(rows):
                own = slice(conformers.offsets[i], conformers.offsets[i + 1])
                if self.forces is not None:
                    kcal = self.forces[own] * units.HARTREE_TO_KCALMOL
                    row["forces_kcalmol_angstrom"] = kcal.tolist()
                if self.stress is not None and np.isfinite(self.stress[i]).all():
                    ev = self.stress[i] * units.HARTREE_TO_EV
                    row["stress_ev_angstrom3"] = ev.tolist()
                if self.atomic_energies is not None:
                    row["atomic_energies_hartree"] = self.atomic_energies[own].tolist()
                for name, unit in (("forces", "kcalmol_angstrom"), ("atomic_energies", "kcalmol")):
                    std = getattr(self, f"{name}_std")
                    if std is not None and np.isfinite(std[own]).all():
                        kcal = std[own] * units.HARTREE_TO_KCALMOL
                        row[f"{name}_std_{unit}"] = kcal.tolist()
            write_text(path, json.dumps(rows, indent=1) + "\n")
        elif kind == ".csv":
            rows = self.rows(conformers)
            text = io.StringIO()
            names = list(dict.fromkeys(key for row in rows for key in row))
            writer = csv.DictWriter(text, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_text(path, text.getvalue())
        else:
            with atomic_write(path) as temporary:
                ase.io.write(temporary, self.to_atoms(conformers), format="extxyz")
        return path


def checked_ending(path: Path) -> str:
    """The ending of a file to write predictions to. Raises SettingsError for an unknown one."""
    kind = path.suffix.lower()
    if kind not in (".json", ".csv", ".extxyz", ".xyz"):
        raise SettingsError(f"{path}: predictions are written as .json, .csv or .extxyz")
    return kind
