"""Saved potentials: one file a format."""

from __future__ import annotations

from pathlib import Path

from anipot.aev.computer import AEVComputer
from anipot.errors import PotentialError, SettingsError
from anipot.model import ANIModel
from anipot.potentials.own import read_potential

#: The potential in the folder of a run.
IN_RUN = "potential.safetensors"


def load(path: str | Path, engine: str = "auto") -> ANIModel:
    """Load a saved potential, ready for use (evaluation mode, on the CPU).

    ``path`` may be the folder of a run: its ``potential.safetensors`` is meant. Raises
    PotentialError that names the file and what is wrong with it.
    """
    file = _file(Path(path))
    saved = read_potential(file)
    try:
        aev = AEVComputer(saved.aev, engine)
    except SettingsError as e:  # the engine asked for is not there
        raise SettingsError(f"{file}: {e}") from None
    model = ANIModel(
        aev, saved.networks, saved.self_energies, saved.output_unit, saved.about, saved.trained
    )
    return model.eval()


def _file(path: Path) -> Path:
    """The file that is meant by a run's folder; a training's checkpoint is no potential."""
    if path.is_dir():
        if not (path / IN_RUN).exists():
            raise PotentialError(
                f"{path} is a folder without a {IN_RUN}: not that of a run, or of one that has not "
                "saved its potential yet; name the file of a potential"
            )
        return path / IN_RUN
    if path.suffix == ".pt" and path.is_file():
        beside = path.with_name(IN_RUN)
        name = f"name {beside}" if beside.exists() else f"the potential is saved as {IN_RUN}"
        raise PotentialError(
            f"{path} is the state of a training (anipot train --resume), not a potential; {name}"
        )
    return path
