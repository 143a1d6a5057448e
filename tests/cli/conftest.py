"""One tiny finished run, and the commands as they are called."""

import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from anipot import cli
from anipot.runs import run as run_module

#: Words of a training that takes about a second.
SMALL = [
    *("heavy_atoms=2", "per_molecule=12", "hidden=8", "epochs=3", "batch_size=32"),
    *("optimizer=adamw", "learning_rate=1e-3"),
]


@dataclass
class Result:
    """What a command did: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


@pytest.fixture
def anipot(monkeypatch, capsys):
    """Run the command with arguments, as the shell does: ``anipot("train", "epochs=3")``."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr("sys.argv", ["anipot", *map(str, arguments)])
        capsys.readouterr()
        root.handlers[:] = []  # pytest's own would keep warnings from standard error
        code = 0
        try:
            cli.main()
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Result(code, out, err)

    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield run
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture(scope="session")
def small_words() -> list[str]:
    return list(SMALL)


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished run on a part of the bundled data."""
    from anipot.config import RunSettings
    from anipot.system.options import checked, with_words

    folder = tmp_path_factory.mktemp("cli") / "run"
    run_module.start_run(checked(RunSettings, with_words({}, SMALL)), folder)
    return folder


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, but not rendered, where a test is not about them."""
    from anipot.report.figures import plots

    def touch(figure, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for ending in (".png", ".svg"):
            path.with_suffix(ending).touch()

    monkeypatch.setattr(plots, "save_figure", touch)
