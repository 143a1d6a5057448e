"""How much memory loading a data set takes beyond what the imports take.

A temporary ANI HDF5 file is made (by default 865,000 conformers of 13 atoms, about what one to
four heavy atoms are in ANI-1) and read in a process of its own, which reports its peak resident
memory before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

_READ = """
import json, sys, time
import anipot, anipot.potential.model, anipot.data
from benchmarks.memory import peak_mb, resident_mb
before = {"peak": peak_mb(), "resident": resident_mb()}
start = time.perf_counter()
data = anipot.load_dataset(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps({"before": before, "peak": peak_mb(), "resident": resident_mb(),
                  "seconds": seconds, "conformers": len(data), "data": data.nbytes / 1e6}))
"""


def make_file(path: Path, conformers: int, atoms: int, groups: int, seed: int = 0) -> None:
    """An ANI-1-like file: ``groups`` molecules with random coordinates and energies."""
    rng = np.random.default_rng(seed)
    species = np.array([b"C", b"N", b"O", *[b"H"] * (atoms - 3)], dtype="S1")
    sizes = np.diff(np.linspace(0, conformers, groups + 1).astype(int))
    with h5py.File(path, "w") as file:
        for i, n in enumerate(sizes):
            group = file.create_group(f"gdb11_s04/gdb11_s04-{i}")
            group["coordinates"] = rng.normal(scale=3, size=(n, atoms, 3)).astype(np.float32)
            group["energies"] = -170 + rng.normal(scale=0.1, size=n)
            group["species"] = species


def _status(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError(f"/proc/self/status has no {name}")


def peak_mb() -> float:
    """Highest resident memory of this process so far, MB."""
    try:
        return _status("VmHWM")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def resident_mb() -> float:
    """Resident memory of this process now, MB; NaN where the system does not tell."""
    try:
        return _status("VmRSS")
    except OSError:
        return float("nan")


def measure(conformers: int, atoms: int, groups: int) -> dict[str, float]:
    """Make a file and read it in a new process; MB and seconds.

    ``added`` is the peak beyond what was resident after the imports.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.h5"
        make_file(path, conformers, atoms, groups)
        run = subprocess.run(
            [sys.executable, "-c", _READ, str(path)],
            cwd=Path(__file__).resolve().parents[1],
            check=True,
            capture_output=True,
            text=True,
        )
    result = json.loads(run.stdout.splitlines()[-1])
    # The peak of the imports may lie above what they keep: counting from what is resident is
    # stricter.
    start = result["before"]["resident"]
    if start != start:
        start = result["before"]["peak"]
    return {
        "conformers": result["conformers"],
        "imports": start,
        "peak": result["peak"],
        "added": result["peak"] - start,
        "data": result["data"],
        "seconds": result["seconds"],
    }


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__)
    parser.add_argument("--conformers", type=int, default=865_000)
    parser.add_argument("--atoms", type=int, default=13)
    parser.add_argument("--groups", type=int, default=80)
    parser.add_argument(
        "--limit", type=float, default=400.0, help="MB; above it the exit code is 1"
    )
    options = parser.parse_args(argv)
    r = measure(options.conformers, options.atoms, options.groups)
    print(f"{r['conformers']:,} conformers of {options.atoms} atoms")
    print(f"after the imports  {r['imports']:8.0f} MB resident")
    print(f"peak               {r['peak']:8.0f} MB resident")
    print(f"added by loading   {r['added']:8.0f} MB (the arrays themselves: {r['data']:.0f} MB)")
    print(f"time               {r['seconds']:8.2f} s")
    return 0 if r["added"] < options.limit else 1
