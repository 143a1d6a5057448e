"""Files of a molecular dynamics run: trajectory, log and restart file.

A run that was killed at any moment is cut back to its last restart point, so that what is written
after going on is what would have been written without the interruption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import IO, Any

import ase
import ase.io
import numpy as np
from ase.io.trajectory import Trajectory

from anipot.errors import SettingsError, SimulationError
from anipot.simulation.structures import extxyz, snapshot
from anipot.system.files import atomic_write, read_table


@dataclass(frozen=True)
class Row:
    """A line of the log; eV, K, and kcal/mol of the disagreement (NaN of a single model)."""

    step: int
    time_fs: float
    potential_ev: float
    kinetic_ev: float
    total_ev: float
    temperature_k: float
    disagreement_kcalmol: float


COLUMNS = tuple(Row.__annotations__)


#: What to do with files from which no run can go on.
START_AGAIN = "the run cannot go on: start it again, with --overwrite or another --out"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run, beside each other, named after the trajectory."""

    trajectory: Path

    @staticmethod
    def of(out: str | Path) -> RunFiles:
        """Raises SettingsError for an ending that is not a trajectory's."""
        path = Path(out)
        if path.suffix not in (".extxyz", ".traj"):
            raise SettingsError(f"{path}: trajectories are written as .extxyz or .traj")
        return RunFiles(path)

    @property
    def log(self) -> Path:
        return self.trajectory.with_suffix(".csv")

    @property
    def restart(self) -> Path:
        return self.trajectory.with_suffix(".restart.npz")

    @property
    def figure(self) -> Path:
        return self.trajectory.with_suffix(".png")

    def __iter__(self) -> Iterator[Path]:
        yield from (self.trajectory, self.log, self.restart)


@dataclass(frozen=True, eq=False)
class RestartPoint:
    """All that the future of a run depends on, and how long its files were then."""

    arrays: dict[str, np.ndarray]
    step: int
    energy: float
    random_state: dict[str, Any]
    settings: dict[str, Any]
    frames: int
    log_bytes: int
    trajectory_bytes: int
    constraints: list[dict[str, Any]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        rest = {k: v for k, v in vars(self).items() if k != "arrays"}
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **self.arrays, rest=np.array(json.dumps(rest)))  # type: ignore[arg-type]

    @staticmethod
    def read(path: Path) -> RestartPoint:
        """Raises SimulationError for a file that is missing or is no restart file."""
        if not path.exists():
            raise SimulationError(f"no {path} to go on from; start the run without resuming it")
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {k: file[k] for k in (*STATE, "rest")}
            point = RestartPoint(arrays=arrays, **json.loads(str(arrays.pop("rest"))))
            point.check()
            return point
        except Exception as e:  # a damaged zip file or text raises anything at all
            raise SimulationError(
                f"{path}: damaged, or not a restart file of this version of anipot ({e}); "
                f"{START_AGAIN}"
            ) from None

    def check(self) -> None:
        """Raises ValueError for what no run has written."""
        n = len(self.arrays["numbers"])
        shapes = {"numbers": (n,), "masses": (n,), "cell": (3, 3), "pbc": (3,)}
        for name, array in self.arrays.items():
            numeric = array.dtype.kind in "biuf" and array.shape == shapes.get(name, (n, 3))
            if not numeric or not np.isfinite(array).all():
                raise ValueError(f"{name}: {array.dtype} {array.shape}, or not finite")
        for name in ("step", "frames", "log_bytes", "trajectory_bytes"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)!r}")
        if type(self.energy) is not float or not np.isfinite(self.energy):
            raise ValueError(f"energy is {self.energy!r}")
        for name in ("settings", "random_state"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} is {getattr(self, name)!r}")

    def put(self, atoms: ase.Atoms) -> None:
        """Give ``atoms`` the positions, momenta and cell of this point, bit for bit."""
        numbers = self.arrays["numbers"]
        if not np.array_equal(numbers, atoms.numbers):
            raise SimulationError(
                f"the run to go on with is of {ase.Atoms(numbers).get_chemical_formula()}, the "
                f"structure given is {atoms.get_chemical_formula()} or has its atoms in another "
                "order"
            )
        atoms.set_cell(self.arrays["cell"])
        atoms.pbc = self.arrays["pbc"]
        if not np.array_equal(atoms.get_masses(), self.arrays["masses"]):
            atoms.set_masses(self.arrays["masses"])
        atoms.arrays["positions"][...] = self.arrays["positions"]
        atoms.set_array("momenta", self.arrays["momenta"].copy(), float, (3,))


STATE = ("numbers", "positions", "momenta", "masses", "cell", "pbc")


def state_of(atoms: ase.Atoms) -> dict[str, np.ndarray]:
    """The arrays of a restart point."""
    return {
        "numbers": atoms.numbers.copy(),
        "positions": atoms.positions.copy(),
        "momenta": atoms.get_momenta(),
        "masses": atoms.get_masses(),
        "cell": np.array(atoms.cell),
        "pbc": atoms.pbc.copy(),
    }


class Recorder:
    """Writes frames and log rows of a run, from the beginning or from a restart point on."""

    def __init__(self, files: RunFiles, start: RestartPoint | None, every: int) -> None:
        self.files, self.frames = files, 0 if start is None else start.frames
        self.rows: list[Row] = []
        files.trajectory.parent.mkdir(parents=True, exist_ok=True)
        self._text: IO[str] | None = None
        self._binary: Any = None
        if start is None:
            # One of an earlier run would not belong to what is written from here on.
            files.restart.unlink(missing_ok=True)
            self._log = files.log.open("w", encoding="utf-8", newline="")
            self._log.write(",".join(COLUMNS) + "\n")
        else:
            _cut(files.log, start.log_bytes)
            self.rows = read_log(files.log)
            if [row.step for row in self.rows] != list(range(0, start.step + 1, every)):
                raise SimulationError(
                    f"{files.log}: not the log of {files.restart}: it has not a line for every "
                    f"{every} steps up to {start.step}; {START_AGAIN}"
                )
            self._log = files.log.open("a", encoding="utf-8", newline="")
        mode = "w" if start is None else "a"
        if files.trajectory.suffix == ".extxyz":
            if start is not None:
                _cut(files.trajectory, start.trajectory_bytes)
            self._text = files.trajectory.open(mode, encoding="utf-8", newline="")
        else:
            if start is not None:
                _cut_frames(files.trajectory, start.frames)
            self._binary = Trajectory(str(files.trajectory), mode)

    def add(self, row: Row, atoms: ase.Atoms) -> None:
        """A line of the log and a frame of the trajectory, for the same moment."""
        self.rows.append(row)
        self._log.write(",".join(map(repr, astuple(row))) + "\n")
        self.add_frame(atoms, step=row.step, time_fs=row.time_fs)

    def add_frame(self, atoms: ase.Atoms, **info: Any) -> None:
        """A frame of the trajectory."""
        frame = snapshot(atoms, **info)
        if self._text is not None:
            self._text.write(extxyz(frame))
        else:
            self._binary.write(frame)
        self.frames += 1

    def save(
        self,
        atoms: ase.Atoms,
        step: int,
        random_state: Any,
        settings: Any,
        constraints: list[dict[str, Any]],
    ) -> None:
        """The restart file, once all that was written before is in the files."""
        for file in (self._log, self._text):
            if file is not None:
                file.flush()
                os.fsync(file.fileno())
        RestartPoint(
            state_of(atoms),
            step,
            float(atoms.get_potential_energy()),
            random_state,
            settings,
            self.frames,
            self._log.tell(),
            0 if self._text is None else self._text.tell(),
            constraints,
        ).write(self.files.restart)

    def close(self) -> None:
        for file in (self._log, self._text, self._binary):
            if file is not None:
                file.close()


def read_log(path: Path) -> list[Row]:
    """The rows of a run's log. Raises SimulationError, with the line, for a file that is none."""

    def row(line: dict[str, str]) -> Row:
        return Row(int(line["step"]), *(float(line[c]) for c in COLUMNS[1:]))

    return read_table(path, row, SimulationError, START_AGAIN)


def _cut(path: Path, size: int) -> None:
    """Cut a file back to ``size`` bytes."""
    found = path.stat().st_size if path.is_file() else -1
    if found < size:
        raise SimulationError(
            f"{path} is missing or shorter than when the run was last saved ({found} bytes of "
            f"{size}); {START_AGAIN}"
        )
    with path.open("rb") as file:
        file.seek(max(size - 1, 0))
        if size and file.read(1) != b"\n":
            raise SimulationError(
                f"{path}: no line ends where one ended when the run was last saved (byte {size}): "
                f"it was changed; {START_AGAIN}"
            )
    os.truncate(path, size)


def _cut_frames(path: Path, n: int) -> None:
    """Keep the first ``n`` frames of a .traj file."""
    try:
        frames = ase.io.read(path, f":{n}")
    except Exception as e:  # ASE's reader raises anything at all on a damaged file
        raise SimulationError(f"{path}: cannot be read ({e}); {START_AGAIN}") from e
    if len(frames) < n:
        raise SimulationError(
            f"{path} has {len(frames)} frames, and had {n} when it was last saved; {START_AGAIN}"
        )
    with atomic_write(path) as temporary:
        ase.io.write(temporary, frames, format="traj")
