"""NeuroChem's text files of constants: ``.params`` (AEV) and ``sae_linfit.dat`` (self energies)."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from anipot.aev.settings import AEVSettings
from anipot.elements import parse_elements
from anipot.errors import PotentialError
from anipot.formats.safe_reading import naming, number, read_text, short
from anipot.networks.self_energies import SelfEnergies

#: More entries than any real list of constants has.
MAX_LIST = 1000

#: Names of the constants in AEVSettings, by their names in NeuroChem.
CUTOFFS = {"Rcr": "radial_cutoff", "Rca": "angular_cutoff"}
LISTS = {
    "EtaR": "radial_eta",
    "ShfR": "radial_shifts",
    "EtaA": "angular_eta",
    "Zeta": "zeta",
    "ShfA": "angular_shifts",
    "ShfZ": "angle_shifts",
}


def read_params(path: Path) -> AEVSettings:
    """Read the AEV constants from lines ``Key = value``; other keys are ignored."""
    with naming(path):
        raw: dict[str, str] = {}
        for line in read_text(path).splitlines():
            key, equals, value = line.partition("=")
            key = key.strip()
            if not equals or key not in {*CUTOFFS, *LISTS, "Atyp"}:
                continue
            if key in raw:
                raise PotentialError(f"{key} is there twice")
            raw[key] = value.strip()
        lacking = [k for k in (*CUTOFFS, *LISTS, "Atyp") if k not in raw]
        if lacking:
            raise PotentialError(f"{', '.join(lacking)} missing")
        lists = {}
        for key in (*LISTS, "Atyp"):
            if not re.fullmatch(r"\[[^\[\]]*\]", raw[key]):
                raise PotentialError(f"{key} must be a list in brackets, but is {short(raw[key])}")
            lists[key] = [item.strip() for item in raw[key][1:-1].split(",")]
            if len(lists[key]) > MAX_LIST:
                raise PotentialError(f"{key} has {len(lists[key]):,} entries; {MAX_LIST} at most")
        values: dict[str, Any] = {n: number(raw[key], key) for key, n in CUTOFFS.items()}
        for key, name in LISTS.items():
            values[name] = tuple(number(v, key) for v in lists[key])
        return AEVSettings(parse_elements(lists["Atyp"]), **values)


def read_self_energies(path: Path, elements: tuple[str, ...]) -> SelfEnergies:
    """Read self energies (hartree) from lines ``H,0=-0.60095``; the index is ignored."""
    with naming(path):
        energies: dict[str, float] = {}
        for k, line in enumerate(read_text(path).splitlines(), start=1):
            if not line.strip():
                continue
            found = re.fullmatch(r"\s*([A-Z][a-z]?)\s*,\s*\d+\s*=(.*)", line)
            if not found:
                raise PotentialError(
                    f"line {k} must read as 'H,0=-0.6009', not {short(line)} (symbol, index, "
                    "self energy in hartree)"
                )
            symbol, value = found.groups()
            if symbol in energies:
                raise PotentialError(f"two self energies of {symbol}")
            energies[symbol] = number(value, f"the self energy of {symbol}")
        lacking = [e for e in elements if e not in energies]
        if lacking:
            raise PotentialError(f"no self energy of {', '.join(lacking)}")
        if not all(math.isfinite(energies[e]) for e in elements):
            raise PotentialError("a self energy is not finite")
        return SelfEnergies(elements, np.array([energies[e] for e in elements]))
