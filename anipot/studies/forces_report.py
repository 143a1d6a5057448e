"""Conclusions of the forces study, from its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: What is trained on: the weight of the forces, and how many times the epochs. An epoch with
#: forces takes about 2.5 times as long as one without, and both trainings are to take as long.
TRAININGS = {"energies only": (0.0, 2.5), "energies and forces": (1.0, 1.0)}

#: Force errors so many times lower with forces are what the study looks for.
WANTED = 3.0


def gain(pair: Mapping[str, Mapping[str, float]], what: str = "force_mae") -> float:
    """Factor by which an error is lower with forces."""
    without, with_forces = (pair[kind][what] for kind in TRAININGS)
    return without / with_forces


def learnt(result: Mapping[str, Any]) -> list[str]:
    """Conclusions from the numbers."""
    known, new = result["known_molecules"], result["new_molecules"]
    energies, with_forces = TRAININGS
    said = [
        "On new conformers of molecules in the training, forces "
        f"{_changes(known)}; on new molecules they {_changes(new)}."
    ]
    sizes = np.array([int(n) for n in result["by_molecules"]])
    errors_with, errors_without = (
        np.array([e[kind]["force_mae"] for e in result["by_molecules"].values()])
        for kind in reversed(TRAININGS)
    )
    slope = float(np.polyfit(np.log(sizes), np.log(errors_with), 1)[0])
    slope_without = float(np.polyfit(np.log(sizes), np.log(errors_without), 1)[0])
    far = new[with_forces]["force_mae"] / known[with_forces]["force_mae"]
    said.append(_offsets(new))
    few = f"{sizes[0]} to {sizes[-1]} molecules in the training"
    said.append(
        f"With forces, new molecules have {far:.1f} times the force error of new conformers of "
        f"known molecules. From {few} it falls as N^{slope:.2f} with forces and as "
        f"N^{slope_without:.2f} without: "
        + (
            "more molecules lower it further."
            if slope < -0.1
            else "here the number of molecules does not decide."
        )
    )
    if gain(new) < WANTED:
        said.append(
            f"On new molecules the gain in forces stays below {WANTED:g} times"
            + (
                f", and on known ones, with the same networks and training, it is "
                f"{gain(known):.1f} times: the potential learns the forces that it is shown, and "
                f"{sizes[-1]} molecules do not show all environments of atoms that new ones have."
                if gain(known) >= WANTED
                else "; it does on known ones, too: the training is too short."
            )
        )
    kept = {kind: fraction(result["dynamics"][kind]) for kind in TRAININGS}
    without = kept[energies]
    said.append(
        f"In dynamics {kept[with_forces]:.0%} of the runs keep all bonds with forces, "
        f"{without:.0%} with energies only: "
        + (
            f"an energy error of {new[energies]['energy_mae']:.1f} kcal/mol goes with a force "
            f"error of {new[energies]['force_mae']:.0f} kcal/mol/angstrom, and dynamics follows "
            "forces."
            if kept[with_forces] > without
            else "here the forces make no molecule hold that would not hold without."
        )
    )
    return said


def _changes(pair: Mapping[str, Mapping[str, float]]) -> str:
    """Effect of forces on the errors of forces and of energies."""
    said = []
    for name, what in (("force", "force_mae"), ("energy", "energy_mae")):
        ratio, after = gain(pair, what), list(pair.values())[1][what]
        times = f"lower the {name} error {ratio:.1f} times"
        if ratio < 1:
            times = f"raise the {name} error {1 / ratio:.1f} times"
        said.append(f"{times} (to {after:.2f})")
    return " and ".join(said)


def _offsets(new: Mapping[str, Mapping[str, float]]) -> str:
    """Compare relative energies with energies of new molecules."""
    before, after = (new[kind] for kind in TRAININGS)
    ratio = before["relative_mae"] / after["relative_mae"]
    return (
        f"Between conformers of a new molecule energies are {ratio:.1f} times as good with forces "
        f"({before['relative_mae']:.1f} to {after['relative_mae']:.1f} kcal/mol), their level is "
        + (
            "not: "
            if after["energy_mae"] >= before["energy_mae"]
            else f"{before['energy_mae'] / after['energy_mae']:.1f} times as good: "
        )
        + f"{before['energy_mae']:.1f} to {after['energy_mae']:.1f} kcal/mol. A force is a slope, "
        "and says nothing of what one molecule has more than another."
    )


def fraction(runs: Sequence[Sequence[float | None]]) -> float:
    return float(np.mean([t is None for row in runs for t in row]))
