"""Checks of labels: units, signs, sizes, and whether energies and forces agree."""

from __future__ import annotations

import numpy as np

from anipot import units
from anipot.data.conformers import Conformers
from anipot.data.mapping import keyword
from anipot.data.problems.problem import Problem, blocks_of, fitting_unit
from anipot.elements import number_of

# Energies of free atoms (hartree, from DFT, to 1 %), H to Ar. They tell units, which differ by
# 27 and more.
ATOM_ENERGIES = np.array(
    [0.0, -0.50, -2.91, -7.49, -14.67, -24.66, -37.85, -54.59, -75.07, -99.74, -128.94,
     -162.29, -200.09, -242.39, -289.41, -341.29, -398.16, -460.19, -527.59]
)  # fmt: skip


#: Energies over what is expected of them, where both are in one unit.
_SAME = (0.78, 1.28)

#: Stresses beyond this (GPa) are not those of ordinary matter.
LARGEST_STRESS = 100.0

#: Pairs of conformers that are compared in all, and molecules they are taken of.
_PAIRS, _MOLECULES, _FEWEST = 400, 40, 6
#: Farther than this (angstrom) an atom must not move between two conformers to be compared.
_FAR = 0.7


def wrong_unit(c: Conformers) -> list[Problem]:
    """Conformers whose energies are not the size of total energies in hartree.

    The yardstick is the sum of the free atoms' energies: a molecule lies within a few percent of
    it (hydrogen within 20 %). Periodic data and elements beyond argon are often computed with
    pseudopotentials, which have energies of any size; there, only an energy of a multiple that
    betrays a unit counts.
    """
    wrong: list[np.ndarray] = []
    energy = expect = ""
    for start, part in blocks_of(c):
        bad, expected, ratio = _ratios(part)
        if not len(bad):
            continue
        if not wrong:
            i = int(bad[0])
            assert part.energies is not None
            energy = f"{part.describe(i, start)} has the energy {part.energies[i]:.6g} hartree"
            expect = f"its free atoms have about {expected[i]:.4g}"
        wrong.append(ratio[bad])
    if not wrong:
        return []
    ratio = np.concatenate(wrong)
    typical = float(np.median(ratio))
    read_as = c.file_units.get("energy", "hartree")
    # Below 1 only a factor that all share betrays a unit: atomization energies share none.
    shared = typical > 1 or np.ptp(ratio) < 0.2 * typical
    like = fitting_unit(typical, units.ENERGY_UNITS, read_as, _SAME) if shared else None
    if like is not None:
        why = (
            f"about {typical:.3g} times as much: they look like {like}; if so, give "
            f"{keyword('energy_unit', like)}"
        )
    elif typical < 0.75:
        why = (
            "they look like atomization or formation energies, energies relative to something, "
            "or totals with pseudopotentials; self energies are then not those of atoms"
        )
    else:
        why = f"{typical:.3g} times as much, which no known unit explains"
    text = f"{energy}, but {expect}; {why}; {len(ratio):,} of {len(c):,} conformers"
    return [Problem("unit", text, len(ratio))]


def _ratios(c: Conformers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which conformers have energies of another size than expected; what is expected (M,) hartree,
    and how many times that the energies are (M,).
    """
    if c.energies is None:
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0)
    known = len(ATOM_ENERGIES)
    symbols = c.elements
    numbers = np.array([number_of(symbol) for symbol in symbols], dtype=np.int64)
    scale = np.where(numbers < known, ATOM_ENERGIES[np.minimum(numbers, known - 1)], np.nan)
    counts = c.composition(symbols)
    expected = counts @ np.nan_to_num(scale)
    heavy = counts @ np.isnan(scale).astype(int) > 0
    usable = c.has("energies") & ~heavy & (expected < 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(usable, c.energies / expected, 1.0)
    periodic = np.zeros(len(c), dtype=bool) if c.pbc is None else c.pbc.any(axis=1)
    bad = np.flatnonzero(((ratio < 0.75) | (ratio > 1.4)) & ~(periodic & (ratio < 1.4)))
    return bad, expected, ratio


def odd_electrons(c: Conformers) -> list[Problem]:
    """Molecules with an odd number of electrons, which are radicals or ions.

    Lone atoms and periodic conformers are left out: atoms serve as a reference, and metals have
    any number of electrons.
    """
    count, first = 0, ""
    for start, part in blocks_of(c):
        total = np.zeros(part.total_atoms + 1, dtype=np.int64)
        np.cumsum(part.atomic_numbers, dtype=np.int64, out=total[1:])
        odd = (np.diff(total[part.offsets]) % 2 == 1) & (part.n_atoms > 1)
        if part.pbc is not None:
            odd &= ~part.pbc.any(axis=1)
        if odd.any():
            first = first or part.describe(int(np.argmax(odd)), start)
            count += int(odd.sum())
    if not count:
        return []
    text = (
        f"{first} has an odd number of electrons; {count:,} of {len(c):,} conformers. A radical "
        "or an ion is described as if it were neutral and closed-shell"
    )
    return [Problem("electrons", text, count)]


def large_stress(c: Conformers, limit: float = LARGEST_STRESS) -> list[Problem]:
    """Conformers with a component of the stress beyond ``limit`` GPa."""
    if c.stress is None:
        return []
    count, first, largest = 0, "", []
    for start, part in blocks_of(c):
        assert part.stress is not None
        size = np.abs(np.nan_to_num(part.stress)).max(axis=(1, 2)) * units.HARTREE_TO_GPA
        bad = np.flatnonzero(size > limit)
        if len(bad) and not count:
            first = f"{part.describe(int(bad[0]), start)} has a stress of {size[bad[0]]:.4g} GPa"
        count += len(bad)
        largest.append(size[bad])
    if not count:
        return []
    typical = float(np.median(np.concatenate(largest))) / units.HARTREE_TO_GPA
    length = c.file_units.get("length", "angstrom")
    as_read = units.hartree_to(c.file_units.get("energy", "hartree")) * (
        units.length_to_angstrom(length) ** 3
    )
    # The number in the file, if the stress is in energy over volume, tried as a pressure.
    likely = [
        unit
        for unit in ("GPa", "kbar", "bar")
        if typical
        * as_read
        * units.stress_to_hartree_per_cubic_angstrom(unit)
        * units.HARTREE_TO_GPA
        < limit
    ]
    text = f"{first} (more than {limit:g}); {count:,} of {len(c):,} conformers"
    if likely:
        text += f"; if it is in {' or '.join(likely)}, give {keyword('stress_unit', likely[0])}"
    return [Problem("stress", text, count)]


def forces_against_energies(c: Conformers, size: bool = True) -> list[Problem]:
    """Whether forces are the slope of the energies: their sign, and their unit.

    Between two similar conformers of a molecule the energy changes by about
    -(F1 + F2) / 2 . (x2 - x1), exactly so where the energy is a quadratic function. Pairs of
    conformers in which no atom moves farther than ``_FAR`` are compared; nothing is said without
    ``_FEWEST`` of them, or where energies and forces have no common line. ``size=False`` looks at
    the sign alone.
    """
    change, work = _pairs(c)
    if len(change) < _FEWEST:
        return []
    norm = float(np.linalg.norm(change) * np.linalg.norm(work))
    if norm == 0:
        return []
    correlation = float(change @ work) / norm
    slope = float(change @ work) / float(work @ work)  # of energies over work
    text = f"over {len(change)} pairs of similar conformers, energies change by {slope:.3g} times "
    text += f"what the forces say (correlation {correlation:.2f})"
    # As many pairs as make chance unlikely: 6 ask for -0.98, 25 and more for -0.5.
    if correlation < -0.5 and correlation * len(change) ** 0.5 < -2.4:
        sign = keyword("forces_sign", "gradient")
        return [Problem("forces", f"{text}: they are gradients; give {sign}", len(c))]
    if size and correlation > 0.9 and not 0.75 < slope < 1.33:
        unit = _force_unit(c, slope)
        why = (
            f"they look like {unit}; if so, give {keyword('force_unit', unit)}"
            if unit
            else "no known unit explains it"
        )
        return [Problem("forces", f"{text}: {why}", len(c))]
    return []


def _force_unit(c: Conformers, slope: float) -> str | None:
    """The unit in which forces that are 1/slope of what they should be would be right."""
    energy, length = (
        c.file_units.get(k, own) for k, own in (("energy", "hartree"), ("length", "angstrom"))
    )
    taken = units.force_to_hartree_per_angstrom(f"{energy}/{length}")
    for of_energy in units.ENERGY_UNITS:
        for of_length in units.LENGTH_UNITS:
            unit = f"{of_energy}/{of_length}"
            factor = units.force_to_hartree_per_angstrom(unit) / taken
            if unit != f"{energy}/{length}" and 0.9 < factor / slope < 1.11:
                return unit
    return None


def _pairs(c: Conformers) -> tuple[np.ndarray, np.ndarray]:
    """(P,) hartree: changes of the energy between similar conformers, and the forces' work.

    Conformers of a molecule with the same atoms in the same order and, of crystals, the same cell.
    Molecules are turned onto each other, and their forces with them.
    """
    labelled = np.flatnonzero(c.has("energies") & c.has("forces") & (c.n_atoms > 0))
    groups = c.molecule[labelled]
    names, first = np.unique(groups, return_index=True)
    names = names[np.argsort(first)][:: max(len(names) // _MOLECULES, 1)][:_MOLECULES]
    changes, works = [np.zeros(0)], [np.zeros(0)]
    for group in names:
        members = labelled[groups == group]
        members = members[c.n_atoms[members] == c.n_atoms[members[0]]]
        part = c.gather(members[: min(200, 2400 // len(names))])
        change, work = _pairs_of(part)
        changes.append(change[: _PAIRS // len(names)])
        works.append(work[: _PAIRS // len(names)])
    return np.concatenate(changes), np.concatenate(works)


def _pairs_of(part: Conformers) -> tuple[np.ndarray, np.ndarray]:
    """As ``_pairs``, of conformers of one number of atoms; the most similar pairs first."""
    assert part.energies is not None
    assert part.forces is not None
    n = int(part.n_atoms[0])
    z = part.atomic_numbers.reshape(-1, n)
    x = part.coordinates.reshape(-1, n, 3).astype(np.float64)
    f = part.forces.reshape(-1, n, 3).astype(np.float64)
    periodic: np.ndarray = np.zeros(len(part), dtype=bool)
    if part.pbc is not None:
        periodic = np.any(part.pbc, axis=1)
    x = np.where(periodic[:, None, None], x, x - x.mean(axis=1, keepdims=True))
    found = [np.zeros((0, 3))]
    for i in range(len(part) - 1):
        later = slice(i + 1, None)
        same = (z[later] == z[i]).all(axis=1) & (periodic[later] == periodic[i])
        if periodic[i]:
            assert part.cells is not None
            assert part.pbc is not None
            same &= np.isclose(part.cells[later], part.cells[i]).all(axis=(1, 2))
            cell = part.cells[i] * part.pbc[i][:, None]
            d = x[later] - x[i]
            d -= np.rint(d @ np.linalg.pinv(cell)) @ cell
            own = f[later]
        else:
            u, _, v = np.linalg.svd(np.swapaxes(x[later], 1, 2) @ x[i])  # Kabsch's rotation
            u[:, :, 2] *= np.sign(np.linalg.det(u @ v))[:, None]
            turn = u @ v
            d, own = x[later] @ turn - x[i], f[later] @ turn
        moved = np.linalg.norm(d, axis=2).max(axis=1)
        work = -0.5 * ((f[i] + own) * d).sum(axis=(1, 2))
        change = part.energies[later] - part.energies[i]
        found.append(np.stack([moved, change, work], axis=1)[same & (moved < _FAR) & (moved > 0)])
    pairs = np.concatenate(found)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    return pairs[:, 1], pairs[:, 2]
