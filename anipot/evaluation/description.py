"""Description of a potential as text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from anipot.errors import PotentialError
from anipot.evaluation.calibration import calibrated
from anipot.potential.base import Potential

#: What ``about`` may say, and the words for it.
_TOLD = {
    "name": "name",
    "level_of_theory": "level of theory",
    "citation": "citation",
    "source": "source",
    "format": "read from",
}


def describe(potential: Potential) -> str:
    """Elements, networks, AEVs, self energies (hartree), origin, and the errors known
    (kcal/mol)."""
    return "\n".join(f"{head:<17}{_shown(text)}".rstrip() for head, text in _lines(potential))


def _shown(text: str) -> str:
    """``text`` from a file of unknown origin, without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else " " for c in text)


def _lines(potential: Potential) -> Iterator[tuple[str, str]]:
    members = potential.models
    first, settings, about = members[0], potential.aev.settings, potential.about
    for key, head in _TOLD.items():
        if about.get(key):
            yield head, str(about[key])
    yield "elements", ", ".join(potential.elements)
    untrained = [e for e in potential.elements if e not in potential.trained]
    if untrained:
        yield "not trained", ", ".join(untrained)
    count = f"{potential.n_parameters:,} parameters, {str(potential.dtype)[6:]}"
    yield "members", f"{len(members)}, together {count}" if len(members) > 1 else f"1, {count}"
    seen: set[str] = set()
    for member in members:  # members may differ in their networks, but seldom do
        options = member.networks.options()
        hidden, activation = options["hidden"], options["activation"]
        assert isinstance(hidden, dict)
        widths: dict[str, list[str]] = {}
        for element, sizes in hidden.items():
            widths.setdefault("-".join(map(str, sizes)) or "linear", []).append(element)
        text = "; ".join(f"{' '.join(e)} {w}" for w, e in widths.items())
        if text not in seen:
            yield "hidden layers" if not seen else "", f"{text}; {activation}"
        seen.add(text)
    yield (
        "AEV",
        f"{settings.length} columns, cutoffs {settings.radial_cutoff:g} (radial) and "
        f"{settings.angular_cutoff:g} (angular) angstrom",
    )
    if (repulsion := first.repulsion) is not None:
        yield (
            "repulsion",
            f"ZBL, off from {repulsion.outer:g} of the sum of covalent radii on "
            f"(whole below {repulsion.inner:g})",
        )
    if len({m.self_energies.values.tobytes() for m in members}) == 1:
        for k, (e, value) in enumerate(
            zip(potential.elements, first.self_energies.values, strict=True)
        ):
            yield "" if k else "self energies", f"{e:<2} {value:14.8f} hartree"
        if first.self_energies.note:
            yield "", first.self_energies.note
    else:
        yield "self energies", "of each member its own"
    assumed = about.get("assumed")
    for k, text in enumerate(assumed if isinstance(assumed, list) else []):
        yield "" if k else "assumed", str(text)
    data = about.get("data")
    if isinstance(data, Mapping) and isinstance(data.get("files"), (list, tuple)):
        yield "trained on", f"{', '.join(map(str, data['files']))} ({data.get('conformers')})"
    known = None
    with suppress(PotentialError):  # what a file says of itself may be anything
        known = calibrated(potential)
    if known is not None:
        yield (
            "calibrated",
            f"error {known.scale:.3g} x disagreement x sqrt(atoms), up to "
            f"{known.disagreement_kcalmol:.3g} kcal/mol and {known.largest_molecule_atoms} atoms",
        )
        yield "", f"on {known.data}"
    yield from _errors(about.get("errors_kcalmol"))


def _errors(known: Any) -> Iterator[tuple[str, str]]:
    """``errors_kcalmol`` of ``about``: a dictionary of n, mae, rmse, max for each part."""
    rows = []
    for part, errors in known.items() if isinstance(known, Mapping) else ():
        if isinstance(errors, Mapping) and isinstance(errors.get("mae"), float):
            numbers = [
                f"{name.upper() if name != 'max' else name} {errors[name]:.3f}"
                for name in ("mae", "rmse", "max")
                if isinstance(errors.get(name), float)
            ]
            n = f" (N {errors['n']:,})" if isinstance(errors.get("n"), int) else ""
            rows.append(f"{part}: {', '.join(numbers)} kcal/mol{n}")
            forces = errors.get("forces")
            if isinstance(forces, Mapping) and isinstance(forces.get("mae"), float):
                rows.append(f"  forces MAE {forces['mae']:.3f} {forces.get('unit', '')}")
    for k, row in enumerate(rows or ["none known; anipot evaluate measures them"]):
        yield "" if k else "errors", row
