"""Fixtures that every test may use."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from report_page import HOSTILE, WORDS, Elements

from anipot.config import RunSettings
from anipot.data.conformers import Conformers
from anipot.data.published.bundled import load_bundled
from anipot.runs.run import Run, start_run
from anipot.system.options import checked, with_words

# Tests are many small calculations: a second thread costs more than it brings, and runs of two
# processes side by side would fight for the cores.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def _shared(part: str) -> Path:
    given = os.environ.get("ANIPOT_SHARED")
    folder = (Path(given) if given else ROOT.parent / "shared") / part
    if not folder.is_dir():
        pytest.skip(f"{part} of the shared material not found; name its folder in ANIPOT_SHARED")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real ANI-1 files and other data that is not part of the repository."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_potentials() -> Path:
    """Folder with the published potentials in NeuroChem's format."""
    return _shared("potentials")


@pytest.fixture(scope="session")
def small() -> list[Conformers]:
    """Training, validation and test part of 240 conformers of six molecules."""
    names = ["C", "N", "O", "CO", "C=O", "CN"]
    data = load_bundled().select(molecules=names, per_molecule=40)
    return data.split(0.7, 0.15, 0.15, seed=1)


@dataclass
class Reported:
    run: Run
    data: Path
    page: str

    @property
    def html(self) -> Elements:
        return Elements(self.page)


@pytest.fixture(scope="session")
def reported(tmp_path_factory) -> Reported:
    """A finished run on molecules whose names would break a page that does not escape them."""
    folder = tmp_path_factory.mktemp("somebody's home")
    data = load_bundled().select(heavy_atoms=2, per_molecule=12)
    names = tuple(f"{HOSTILE}{k}" for k in range(len(data.molecule_names)))
    replace(data, molecule_names=names).save(folder / "a <b> & c.npz")
    file = folder / "a <b> & c.npz"
    values = with_words({"data": {"files": [str(file)]}}, WORDS)
    run = start_run(checked(RunSettings, values), folder / "run-<1>")
    return Reported(run, file, (run.folder / "report.html").read_text(encoding="utf-8"))
