"""The example in the help of each command works when it is pasted."""

import shlex
import subprocess

import pytest

COMMANDS = [
    "train", "iterate", "search",
    "evaluate", "calibrate", "report", "predict", "relax", "scan", "vibrations", "md",
    "data info", "data check", "data resolve", "potentials info", "potentials convert",
]  # fmt: skip


def example(text):
    """The lines of the example in a help text."""
    lines = text.split("Example:\n\n")[1].split("\n\n")[0].splitlines()
    assert all(line.startswith("  ") for line in lines)
    return [line[2:] for line in lines]


@pytest.mark.parametrize("command", COMMANDS)
def test_example_works_when_pasted(command, anipot, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    lines = example(anipot(*command.split(), "--help").out)
    assert any(
        line.startswith(f"anipot {command} ") or line == f"anipot {command}" for line in lines
    )
    for line in lines:
        if line.startswith("anipot "):
            result = anipot(*shlex.split(line)[1:])
            assert result.code == 0, result.err
            assert result.out
        else:
            subprocess.run(["bash", "-c", line], check=True)
