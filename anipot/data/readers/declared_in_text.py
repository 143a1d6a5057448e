"""Charge and spin that the input and output files of programs declare, and ASE does not read."""

from __future__ import annotations

import re
from pathlib import Path

import ase

from anipot.data.readers.charges import check_values
from anipot.data.readers.text import read_lines

_INTEGER = r"([-+]?\d+(?:\.\d*)?)"


def _line(text: str) -> re.Pattern[str]:
    return re.compile(text.replace("#", _INTEGER), re.IGNORECASE)


#: By ASE's name of a format: patterns of lines, and what their numbers are.
PATTERNS: dict[str, tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]] = {
    "gaussian-out": (
        (_line(r"\s*Charge\s*=\s*#\s*Multiplicity\s*=\s*#"), ("charge", "multiplicity")),
    ),
    "orca-output": (
        (_line(r"\s*Total Charge\s+Charge\s+\.+\s+#"), ("charge",)),
        (_line(r"\s*Multiplicity\s+Mult\s+\.+\s+#"), ("multiplicity",)),
    ),
    "nwchem-out": (
        (_line(r"\s*Charge\s*:\s*#\s*$"), ("charge",)),
        (_line(r"\s*Spin multiplicity\s*:\s*#"), ("multiplicity",)),
    ),
    "nwchem-in": (
        (_line(r"\s*charge\s+#\s*$"), ("charge",)),
        (_line(r"\s*mult\s+#\s*$"), ("multiplicity",)),
        (_line(r"\s*nopen\s+#\s*$"), ("unpaired_electrons",)),
    ),
    "gamess-us-out": (
        (_line(r"\s*CHARGE OF MOLECULE\s*=\s*#"), ("charge",)),
        (_line(r"\s*SPIN MULTIPLICITY\s*=\s*#"), ("multiplicity",)),
    ),
    "gamess-us-in": (
        (_line(r".*\bICHARG\s*=\s*#"), ("charge",)),
        (_line(r".*\bMULT\s*=\s*#"), ("multiplicity",)),
    ),
    "espresso-in": ((_line(r".*\btot_charge\s*=\s*#"), ("charge",)),),
    "aims-output": ((_line(r"\s*Charge\s*=\s*#"), ("charge",)),),
    "onetep-in": ((_line(r"\s*charge\s*:?\s+#\s*$"), ("charge",)),),
}

#: Charge and multiplicity of a Gaussian input file, one pair for all and one for each fragment.
_TWO = re.compile(r"\s*([-+]?\d+)[\s,]+(\d+)(?:[\s,]+[-+]?\d+)*\s*")


def check_declared(path: Path, form: str) -> None:
    """Raise DataError where a file declares a charge or another multiplicity than 1."""
    if form == "gaussian-in":
        _check_gaussian_input(path)
    patterns = PATTERNS.get(form)
    if not patterns:
        return
    for i, line in enumerate(read_lines(path), 1):
        for pattern, keys in patterns:
            match = pattern.match(line)
            if match is not None:
                for key, value in zip(keys, match.groups(), strict=True):
                    check_values(key, value, f"{path}, line {i}")  # type: ignore[arg-type]


def _check_gaussian_input(path: Path) -> None:
    """The line of charge and multiplicity follows route and title, each ended by a blank line."""
    blank = 0
    begun = False
    for i, line in enumerate(read_lines(path), 1):
        if line.strip().startswith("--link1--"):
            blank, begun = 0, False
        begun |= line.strip().startswith("#")
        blank += begun and not line.strip()
        match = _TWO.fullmatch(line) if blank == 2 else None
        if match is not None:
            check_values("charge", match[1], f"{path}, line {i}")  # type: ignore[arg-type]
            check_values("multiplicity", match[2], f"{path}, line {i}")  # type: ignore[arg-type]


def note_results(frame: ase.Atoms) -> None:
    """Note a charge and a spin among a frame's results where frames are checked for them."""
    results = getattr(frame.calc, "results", {})
    charges = results.get("charges")
    charge = 0.0 if charges is None else float(sum(charges))
    if abs(charge) > 0.5:
        frame.info.setdefault("charge", round(charge, 2))
    magmom = results.get("magmom")
    if isinstance(magmom, int | float) and abs(magmom) > 0.5:
        frame.info.setdefault("magmom", round(float(magmom), 2))
