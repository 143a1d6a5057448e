"""A finished run on molecules whose names would break a page that does not escape them."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from report_page import HOSTILE, WORDS, Elements

from anipot.config import RunSettings
from anipot.datasets import load_bundled
from anipot.options import checked, with_words
from anipot.training.run import Run, start_run


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
    folder = tmp_path_factory.mktemp("somebody's home")
    data = load_bundled().select(heavy_atoms=2, per_molecule=12)
    names = tuple(f"{HOSTILE}{k}" for k in range(len(data.molecule_names)))
    replace(data, molecule_names=names).save(folder / "a <b> & c.npz")
    file = folder / "a <b> & c.npz"
    values = with_words({"data": {"files": [str(file)]}}, WORDS)
    run = start_run(checked(RunSettings, values), folder / "run-<1>")
    return Reported(run, file, (run.folder / "report.html").read_text(encoding="utf-8"))
