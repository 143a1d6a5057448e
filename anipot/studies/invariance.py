"""Properties every potential must have: extensivity, symmetries, forces, cutoffs, crystals.

No potential learns these; they are built in, or they are not. Each is measured as the largest
deviation over many molecules, in float32 and in float64. A property that is built in deviates by
rounding alone, about 10^7 times less in float64; one that a potential only approximates deviates
by the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from anipot.data.conformers import Conformers
from anipot.errors import SettingsError
from anipot.formats.load import load
from anipot.networks.atomic import DTYPES
from anipot.potential.base import Potential
from anipot.report.figures.style import BLUE, COLUMN, ORANGE, log_ticks, styled
from anipot.studies.common import Study
from anipot.studies.invariance_checks import CHECKS, PERIODIC
from anipot.studies.invariance_systems import molecules_for
from anipot.system.threads import threads as using_threads

#: What may deviate, kcal/mol and kcal/mol/angstrom. float32: a hundredth of the errors of the best
#: published potentials. float64: far above rounding, far below anything else.
BARS = {"float32": (1e-2, 3e-2), "float64": (1e-6, 1e-6)}

#: In float64 these are measured by a limit, and are as good as it: the slope of CELU has a kink.
LIMITS = ("forces = -dE/dx", "radial cutoff", "angular cutoff", "repulsion's end")
LIMIT_BARS = (1e-3, 1e-3)

COMPARED = {
    "size extensivity": "two molecules, 20 angstrom apart = the sum of both alone",
    "permutation": "atoms in another order",
    "translation": "moved by up to 10 angstrom along each axis",
    "rotation": "turned at random, and the forces with it",
    "reflection": "mirrored in a random plane, and the forces with it",
    "batch = singles": "all molecules at once = one by one",
    "net force": "the sum of the forces of a molecule = 0",
    "net torque": "their torque about its centre = 0 (kcal/mol, among the energies)",
    "forces = -dE/dx": "central differences of energies in float64, every atom and axis",
    "radial cutoff": "an atom crosses the radial cutoff: jump of energy and forces",
    "angular cutoff": "the same, angular cutoff",
    "repulsion's end": "the same, where the repulsion of nuclei begins",
    "lattice translation": "crystals: each atom moved by lattice vectors of its own",
    "supercell": "crystals: 2 x 2 x 1 cells / 4 = one cell",
    "large cell": "a molecule in a cell that leaves it alone = the molecule",
}


def run(
    potential: str | Path | Potential = "anipot-hcno",
    folder: str | Path | None = None,
    *,
    molecules: int | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole study of a potential (a name, a file or an object); returns what ``result.json``
    holds. ``molecules``: at most so many of the bundled ones.
    """
    if isinstance(potential, str | Path):
        name, potential = str(potential), load(potential)
    else:
        name = type(potential).__name__
    if molecules is not None and molecules < 2:
        raise SettingsError(f"molecules={molecules}: two are put beside each other, so at least 2")
    data = molecules_for(potential, molecules, seed)
    options = {"potential": name, "molecules": molecules, "seed": seed}
    with Study("invariance", folder, options) as study:
        study.say(_about(name, potential, data))
        found = study.once("deviations", lambda: deviations(potential, data, seed))
        rows = judged(found)
        study.table(
            ["", "float32 energy", "force", "float64 energy", "force", "holds"],
            [
                [check, *(_number(v) for d in BARS for v in row[d]), _verdict(row)]
                for check, row in rows.items()
            ],
            f"Largest deviations over {len(data)} molecules, kcal/mol and kcal/mol/angstrom:",
        )
        study.say("\n".join(f"- {check}: {COMPARED[check]}" for check in rows))
        study.say(_bars())
        study.figure(
            draw(rows),
            "deviations",
            "Largest deviations (points; 0 at the left edge) and bars (lines).",
        )
        result = {"molecules": len(data), "checks": rows, "bars": {**BARS, "limits": LIMIT_BARS}}
        study.finish(result, learnt(rows, len(data)))
    return result


def deviations(potential: Potential, data: Conformers, seed: int = 0) -> dict[str, dict[str, Any]]:
    """By check and precision: [energy, force] of its ``Deviation``, kcal/mol and
    kcal/mol/angstrom; both None where it does not apply.
    """
    in_precision = {name: deepcopy(potential).to(dtype).eval() for name, dtype in DTYPES.items()}
    periodic = potential.aev.engine_on(potential.device) != "torchani"
    exact = in_precision["float64"]
    found: dict[str, dict[str, Any]] = {}
    with using_threads(1):  # many small evaluations
        for check, measure in CHECKS.items():
            if check in PERIODIC and not periodic:
                continue
            found[check] = {
                dtype: measure(p, exact, data, np.random.default_rng(seed))
                for dtype, p in in_precision.items()
            }
    return {c: by for c, by in found.items() if any(v is not None for v in by["float64"])}


def judged(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """``deviations`` and, by check, ``holds``: whether all are below the bars, by precision."""
    rows: dict[str, dict[str, Any]] = {}
    for check, by in found.items():
        holds = {
            dtype: all(
                v is None or v <= bar for v, bar in zip(by[dtype], bars(check, dtype), strict=True)
            )
            for dtype in BARS
        }
        rows[check] = {**by, "holds": holds}
    return rows


def bars(check: str, dtype: str) -> tuple[float, float]:
    """Allowed deviations: kcal/mol and kcal/mol/angstrom."""
    return LIMIT_BARS if check in LIMITS and dtype == "float64" else BARS[dtype]


# ---- what is said --------------------------------------------------------------------------------


def _about(name: str, potential: Potential, data: Conformers) -> str:
    members = potential.models
    what = f"an ensemble of {len(members)}" if len(members) > 1 else "one model"
    crystals = (
        "" if potential.aev.engine_on(potential.device) != "torchani"
        else " Crystals are left out: TorchANI's AEV engine, which it uses here, knows no cells."
    )  # fmt: skip
    settings = potential.aev.settings
    return (
        f"{name}: {what}, {' '.join(potential.elements)}, saved in "
        f"{str(potential.dtype).removeprefix('torch.')}; cutoffs of {settings.radial_cutoff:g} and "
        f"{settings.angular_cutoff:g} angstrom. Compared on {len(data)} molecules with "
        f"{len(data.atomic_numbers)} atoms, {' '.join(data.elements)}.{crystals}"
    )


def _bars() -> str:
    return (
        "It holds where energies deviate by no more than {:g} and forces by no more than {:g} in "
        "float32, and by {:g} and {:g} in float64 ({:g} and {:g} where a limit is taken: finite "
        "differences, and the two sides of a cutoff)."
    ).format(*BARS["float32"], *BARS["float64"], *LIMIT_BARS)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _verdict(row: Mapping[str, Any]) -> str:
    failed = [dtype for dtype, holds in row["holds"].items() if not holds]
    return f"NOT in {' and '.join(failed)}" if failed else "yes"


def learnt(rows: Mapping[str, Mapping[str, Any]], n: int) -> list[str]:
    """Conclusions from the numbers."""
    failed = [check for check, row in rows.items() if not all(row["holds"].values())]
    said = []
    if failed:
        said.append(
            f"{len(failed)} of {len(rows)} do not hold: {', '.join(failed)}. What deviates by as "
            "much in float64 as in float32 is no rounding: the potential lacks the property."
        )
    else:
        said.append(
            f"All {len(rows)} hold for {n} molecules. Exact properties deviate by at most "
            f"{_worst(rows, 'float32')} in float32 and {_worst(rows, 'float64')} in float64: "
            "rounding, and nothing else."
        )
    if "reflection" not in failed:
        said.append(
            "Mirror images have the same energy, as in nature. AEVs know distances and angles "
            "only, so an ANI potential cannot tell which enantiomer it has: no training can make "
            "it predict what differs between them, such as the sign of an optical rotation."
        )
    if "size extensivity" not in failed:
        said.append(
            "Molecules beyond the cutoff do not feel each other at all: size extensivity is exact, "
            "and with it goes every interaction of longer range, such as that of two dipoles."
        )
    if not {"radial cutoff", "angular cutoff", "forces = -dE/dx"} & set(failed):
        said.append(
            "Energy and forces are continuous where an atom enters or leaves an environment, and "
            "forces are the slope of the energy: dynamics can conserve it."
        )
    return said


def _worst(rows: Mapping[str, Mapping[str, Any]], dtype: str) -> str:
    values = [row[dtype] for check, row in rows.items() if check not in LIMITS]
    energy, force = (
        max(v for v in column if v is not None) for column in zip(*values, strict=True)
    )
    return f"{energy:.0e} kcal/mol and {force:.0e} kcal/mol/angstrom"


@styled
def draw(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Deviations of energies and forces, a line for each check, with the bars."""
    figure = Figure(figsize=(2 * COLUMN, 0.8 + 0.17 * len(rows)), layout="constrained")
    place = np.arange(len(rows))
    floor = 1e-14  # below the rounding of a total energy: drawn there, also a zero
    for k, axes in enumerate(grid := figure.subplots(1, 2, sharey=True)):
        for dtype, colour in (("float32", ORANGE), ("float64", BLUE)):
            values = [row[dtype][k] for row in rows.values()]
            limits = [bars(check, dtype)[k] for check in rows]
            there = np.array([v is not None for v in values])
            shown = np.clip([v or floor for v in values], floor, 1e6)
            axes.plot(
                shown[there], place[there], "o", color=colour, label=dtype, clip_on=False, zorder=3
            )
            axes.vlines(
                np.array(limits)[there], place[there] - 0.4, place[there] + 0.4, color=colour,
                linewidth=1.0,
            )  # fmt: skip
        highest = max(
            [v for r in rows.values() for d in BARS if (v := r[d][k])] + [BARS["float32"][k]]
        )
        axes.set_xscale("log")
        axes.set_xlim(floor / 2, min(highest, 1e6) * 5)
        log_ticks(axes.xaxis, floor / 2, min(highest, 1e6) * 5)
        axes.grid(axis="x", color="#DDDDDD", linewidth=0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(
            ("Deviation of energies (kcal/mol)", "Deviation of forces (kcal/mol/angstrom)")[k]
        )
    grid[0].set_yticks(place, list(rows))
    grid[0].set_ylim(len(rows) - 0.4, -0.6)
    grid[1].legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.1)
    return figure
