"""Simulations with a potential: relaxation, vibrations, molecular dynamics, scans.

ASE's algorithms with any of its calculators, ``ANICalculator`` for one, made into tasks that can be
interrupted, continued and judged:

    from anipot.simulation import relax
    print(relax(atoms, anipot.load("ani1x").calculator()).energy_after)
"""

from anipot.simulation.coordinate_scan import Coordinate, ScanPoint, scan
from anipot.simulation.dynamics import MDResult, MDSettings, run_md
from anipot.simulation.normal_modes import Thermochemistry, Vibrations, vibrations
from anipot.simulation.relaxation import Relaxed, relax

__all__ = [
    "Coordinate",
    "MDResult",
    "MDSettings",
    "Relaxed",
    "ScanPoint",
    "Thermochemistry",
    "Vibrations",
    "relax",
    "run_md",
    "scan",
    "vibrations",
]
