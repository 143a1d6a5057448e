"""Options may be written with dashes or as words, in every command."""

from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from anipot.cli.app import App
from anipot.errors import SettingsError

app = App()
given = {}


@app.callback()
def _main():
    pass


@app.command()
def plain(
    file: str,
    pair: Annotated[tuple[int, int] | None, typer.Option()] = None,
    max_force: float = 0.1,
    relaxed: Annotated[bool, typer.Option("--relaxed")] = False,
):
    given.update(file=file, pair=pair, max_force=max_force, relaxed=relaxed)


@app.command()
def trains(
    words: Annotated[list[str] | None, typer.Argument()] = None, out: str = "", seeds: int = 3
):
    given.update(words=words, out=out, seeds=seeds)


def called(*args):
    given.clear()
    result = CliRunner().invoke(app, list(args))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return given or result.output


@pytest.mark.parametrize(
    "args",
    [
        ["--max-force", "2", "--pair", "1", "2", "--relaxed", "a.xyz"],
        ["a.xyz", "max_force=2", "relaxed=true", "--pair", "1", "2"],
        ["a.xyz", "max-force=2", "relaxed=True", "--pair", "1", "2"],
        ["--max-force=2", "--pair", "1", "2", "--relaxed", "--", "a.xyz"],
    ],
)
def test_words_are_options(args):
    assert called("plain", *args) == {
        "file": "a.xyz", "pair": (1, 2), "max_force": 2.0, "relaxed": True,
    }  # fmt: skip


def test_a_flag_may_be_false_and_nothing_else():
    assert called("plain", "a.xyz", "relaxed=false")["relaxed"] is False
    with pytest.raises(SettingsError, match="relaxed=true or relaxed=false"):
        called("plain", "a.xyz", "relaxed=maybe")


def test_a_file_with_an_equals_sign_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("max_force=2").touch()
    assert called("plain", "max_force=2")["file"] == "max_force=2"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--epochs", "50", "--normalize-aevs=true"], ["epochs=50", "normalize_aevs=true"]),
        (["--data.per-molecule", "3", "hidden=8,4"], ["data.per_molecule=3", "hidden=8,4"]),
        (["a.h5", "--hidden", "8,4"], ["a.h5", "hidden=8,4"]),
        (["x=1"], ["x=1"]),  # left to the settings to refuse
    ],
)
def test_options_of_a_training_are_words(args, words):
    found = called("trains", *args, "--out", "here", "seeds=5")
    assert found == {"words": words, "out": "here", "seeds": 5}


def test_the_nearest_option_is_named():
    with pytest.raises(SettingsError, match=r"did you mean training\.epochs"):
        called("trains", "--epoch", "3")
    assert "--seeds" in called("trains", "--seed-s", "3")
    assert "No such option" in called("trains", "--fly")
    with pytest.raises(SettingsError, match="--epochs needs a value"):
        called("trains", "--epochs", "--out", "a")
