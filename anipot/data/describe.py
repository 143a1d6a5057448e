"""describe: what a data set holds, in a dozen lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from anipot.data.conformers import LABELS, Conformers
from anipot.data.selection import isolated_atoms


@dataclass(frozen=True)
class Summary:
    """Numbers of a data set; ``str`` makes a table. Ranges are (lowest, highest).

    ``energy_range`` is in hartree, None without energies; ``relative_range`` in kcal/mol is the
    highest energy above the lowest conformer of the same molecule and formula, (median over
    conformers, highest).
    """

    sources: tuple[str, ...]
    level_of_theory: str
    grouped_by: str
    n_molecules: int
    n_conformers: int
    n_atoms: int
    elements: tuple[str, ...]
    atoms_per_conformer: tuple[int, int]
    heavy_atoms: tuple[int, int]
    energy_range: tuple[float, float] | None
    relative_range: tuple[float, float] | None
    labels: dict[str, int]
    periodic: int
    dropped: int
    not_read: tuple[str, ...]
    isolated: tuple[str, ...]
    nbytes: int

    def __str__(self) -> str:
        def span(pair: tuple[int, int]) -> str:
            return str(pair[0]) if pair[0] == pair[1] else f"{pair[0]} to {pair[1]}"

        labels = ", ".join(
            name if count == self.n_conformers else f"{name} (of {count:,} conformers)"
            for name, count in self.labels.items()
            if count
        )
        rows = [
            ("files", ", ".join(self.sources) or "-"),
            ("level of theory", self.level_of_theory or "not known"),
            (f"{self.grouped_by}s", f"{self.n_molecules:,}"),
            ("conformers", f"{self.n_conformers:,}"),
            ("atoms", f"{self.n_atoms:,}"),
            ("elements", " ".join(self.elements)),
            ("atoms per conformer", span(self.atoms_per_conformer)),
            ("heavy atoms", span(self.heavy_atoms)),
            ("labels", labels or "none"),
        ]
        if self.energy_range is not None:
            low, high = self.energy_range
            rows.append(("energies", f"{low:.6f} to {high:.6f} hartree"))
        if self.relative_range is not None:
            median, high = self.relative_range
            rows.append(
                (
                    "relative energies",
                    f"up to {high:.2f} kcal/mol above the {self.grouped_by}'s lowest (median "
                    f"{median:.2f})",
                )
            )
        if self.periodic:
            rows.append(("periodic", f"{self.periodic:,} conformers"))
        if self.dropped:
            rows.append(("left out", f"{self.dropped:,} conformers without the label"))
        if self.isolated:
            atoms = " ".join(self.isolated)
            rows.append(("isolated atoms", f"{atoms}; self_energies=isolated uses them"))
        if self.not_read:
            rows.append(("not read", ", ".join(self.not_read)))
        rows.append(("memory", f"{self.nbytes / 1e6:,.1f} MB"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def describe(conformers: Conformers) -> Summary:
    """Summarize a data set: sizes, elements, energy range (hartree, kcal/mol), labels, memory."""
    c = conformers
    energies = relative = None
    if c.energies is not None and c.has("energies").any():
        energies = (float(np.nanmin(c.energies)), float(np.nanmax(c.energies)))
        above = c.relative_energies()
        highest = float(np.nanmax(above))
        # In place: a copy of one number for each of millions of conformers is spared.
        relative = (float(np.nanmedian(above, overwrite_input=True)), highest)
        del above
    atoms: list[int] = []
    heavy: list[int] = []
    periodic = 0
    for _, part in c.blocks():
        for spans, values in ((atoms, part.n_atoms), (heavy, part.heavy_atoms)):
            spans += [int(values.min()), int(values.max())]
        periodic += 0 if part.pbc is None else int(part.pbc.any(axis=1).sum())

    single = c.elements_of(np.flatnonzero(isolated_atoms(c)))
    return Summary(
        sources=c.sources,
        level_of_theory=c.level_of_theory,
        grouped_by=c.grouped_by,
        n_molecules=c.n_molecules,
        n_conformers=len(c),
        n_atoms=c.total_atoms,
        elements=c.elements,
        atoms_per_conformer=(min(atoms, default=0), max(atoms, default=0)),
        heavy_atoms=(min(heavy, default=0), max(heavy, default=0)),
        energy_range=energies,
        relative_range=relative,
        labels={label: int(c.has(label).sum()) for label in LABELS},
        periodic=periodic,
        dropped=c.dropped,
        not_read=c.not_read,
        isolated=single,
        nbytes=c.nbytes,
    )
