"""The command as a whole: help that can be read and pasted, errors without tracebacks."""

import re
import runpy
from pathlib import Path

import pytest

import anipot as package
from anipot.data.published.bundled import load_bundled
from anipot.training.trainer import ANITrainer

COMMANDS = [
    "train", "evaluate", "calibrate", "predict", "relax", "scan", "vibrations", "md", "report",
    "iterate", "search", "info", "data info", "data check", "data pack", "data resolve",
    "data fetch", "potentials list", "potentials convert", "bench architectures",
]  # fmt: skip


def python_of(text: str) -> str:
    """The Python lines of a help text."""
    block = text.split("In Python:\n\n")[1].split("\n\n")[0]
    lines = block.splitlines()
    assert all(line.startswith("  ") for line in lines)
    return "\n".join(line[2:] for line in lines)


def test_help_lists_every_command(anipot):
    for arguments in (["--help"], ["-h"], []):
        result = anipot(*arguments)
        text = result.out + result.err
        for command in ("train", "evaluate", "predict", "info", "data"):
            assert re.search(rf"^  {command} ", text, re.MULTILINE), (arguments, command)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_readable(command, anipot, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = anipot(*command.split(), "--help")
    assert result.code == 0
    assert result.out.startswith("Usage: ")
    assert all(len(line) <= 88 for line in result.out.splitlines())
    assert "\b" not in result.out
    assert "``" not in result.out
    compile(python_of(result.out), command, "exec")


def test_python_of_train_works_when_pasted(anipot, tmp_path, monkeypatch):
    text = python_of(anipot("train", "--help").out)
    few = load_bundled().select(heavy_atoms=2, per_molecule=8)
    monkeypatch.setattr("anipot.load_bundled", lambda: few, raising=False)
    train = ANITrainer.train

    def short(self, *args, **kwargs):
        self.settings = self.settings.model_copy(update={"epochs": 1})
        return train(self, *args, **kwargs, quiet=True)

    monkeypatch.setattr(ANITrainer, "train", short)
    monkeypatch.chdir(tmp_path)
    exec(text, {})
    assert package.load(tmp_path / "my.safetensors").elements == ("H", "C", "N", "O")


def test_python_of_evaluate_and_predict_works_when_pasted(anipot, trained, tmp_path, capsys):
    few = load_bundled().select(heavy_atoms=2, per_molecule=2)
    few.save(tmp_path / "few.npz")
    names = {
        '"POTENTIAL.safetensors"': repr(str(trained / "potential.safetensors")),
        '"DATA.h5"': repr(str(tmp_path / "few.npz")),
        '"FILE.xyz"': repr(str(tmp_path / "few.npz")),
    }
    for command, expected in (("evaluate", "MAE"), ("predict", "[")):
        text = python_of(anipot(command, "--help").out)
        for placeholder, real in names.items():
            text = text.replace(placeholder, real)
        exec(text, {})
        assert expected in capsys.readouterr().out
    exec(python_of(anipot("info", "--help").out), {})
    assert "reference" in capsys.readouterr().out


def test_version_and_module(anipot, monkeypatch, capsys):
    assert anipot("--version").out == f"anipot {package.__version__}\n"
    monkeypatch.setattr("sys.argv", ["anipot", "--version"])
    with pytest.raises(SystemExit) as e:
        runpy.run_module("anipot", run_name="__main__")
    assert not e.value.code
    assert capsys.readouterr().out == f"anipot {package.__version__}\n"


def test_info_tells_versions_engines_and_data(anipot):
    result = anipot("info")
    assert result.code == 0
    for part in (
        "anipot ",
        "Python ",
        "torch ",
        "torchani ",
        "reference",
        "devices: CPU",
        "data: ",
    ):
        assert part in result.out
    path = re.search(r"bundled data: (.*)", result.out).group(1)
    assert Path(path).is_file()


def test_data_commands_are_mounted(anipot, tmp_path):
    load_bundled().select(heavy_atoms=1, per_molecule=3).save(tmp_path / "few.npz")
    result = anipot("data", "info", tmp_path / "few.npz")
    assert result.code == 0
    assert re.search(r"conformers +9\b", result.out)
    assert anipot("data", "check", tmp_path / "few.npz").code == 0


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["train", "nothing.h5"], ["no file nothing.h5"]),
        (["train", "epochs", "50"], ["'epochs' is neither a file nor an option such as"]),
        (["train", "epochz=3"], ["'epochz'", "training.epochs"]),
        (["train", "epochs=0"], ["'training.epochs'"]),
        (["train", "-c", "none.yaml"], ["none.yaml"]),
        (["train", "--resume", "none"], ["none is not the folder of a run"]),
        (["train", "--resume", "none", "epochs=3"], ["takes no others"]),
        (["train", "--resume", "none", "--options"], ["takes no others"]),
        (["evaluate", "none.safetensors"], ["none.safetensors: there is no such file"]),
        (["evaluate", "none.safetensors", "--part", "half"], ["half"]),
        (["predict", "none.safetensors", "a.xyz"], ["none.safetensors: there is no such file"]),
        (["predict", "none.safetensors"], ["FILE"]),
        (["predict", "a.safetensors", "a.xyz", "-o", "a.txt"], [".json, .csv or .extxyz"]),
        (["predict", "a.safetensors", "a.xyz", "--stress"], ["--out"]),
        (["predict", "a.safetensors", "a.xyz", "--stress", "-o", "a.csv"], [".extxyz"]),
        (["fly"], ["fly"]),
        (["train", "--fly"], ["--fly"]),
    ],
)
def test_errors_are_two_and_a_message(arguments, parts, anipot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = anipot(*arguments)
    assert result.code == 2
    for part in parts:
        assert part in result.err
    runs = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert runs == []  # nothing is left behind


def test_a_full_disk_is_a_message_too(anipot, tmp_path, monkeypatch, small_words):
    import torch

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    result = anipot("train", *small_words, "-o", tmp_path / "a")
    assert result.code == 2
    assert "anipot: [Errno 28] No space left on device; what is done is kept" in result.err
    assert f"anipot train --resume {tmp_path / 'a'}" in result.err
