"""Basis of the studies: a folder with the text, the figures and every number of one."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from anipot.errors import SettingsError
from anipot.evaluation.history import History
from anipot.formats.load import load
from anipot.potential.base import Potential
from anipot.report.figures.plots import save_figure
from anipot.runs.run import new_folder
from anipot.system.files import kept, only_process, read_text, write_first, write_text
from anipot.version import __version__


class Study:
    """A study under way, and its folder (default: the next of runs/study-NAME-001, ...).

        with Study("symmetry", folder, {"epochs": epochs}) as study:
            errors = study.once("plain", lambda: train_and_measure(...))
            study.table(["features", "test MSE"], [["AEV", f"{errors['mse']:.1e}"]])
            study.figure(draw(errors), "errors", "Errors of ...")
            study.finish(errors, ["AEVs do not change when the molecule turns: ..."])

    What is said is printed, and written to report.md as it comes; results are kept as they come, so
    that a study which was interrupted goes on where it was when it is started again with its
    folder. ``options`` are all that decides the results. Make it after inputs have been checked.

    Raises SettingsError for a folder that holds a finished study, one with other options, or
    anything else: nothing is ever overwritten.
    """

    def __init__(
        self, name: str, folder: str | Path | None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.name = name
        self.folder = new_folder("runs", f"study-{name}") if folder is None else Path(folder)
        self.options = _plain(dict(options or {}))
        self._began = time.monotonic()
        self._lines: list[str] = []
        self._check()
        if not write_first(
            self.folder / "study.json", _json({"study": name, "options": self.options})
        ):
            self._check()  # of a process that began another one at this moment
        self._only = only_process(self.folder)
        self._only.__enter__()
        self.say(f"# anipot study {name}")
        print(f"({self.folder})", file=sys.stderr)

    def _check(self) -> None:
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise SettingsError(f"{folder} is a file; name a folder")
        if not folder.exists() or not any(folder.iterdir()):
            return
        if (folder / "result.json").exists():
            raise SettingsError(f"{folder} holds a finished study; name another folder")
        if not (folder / "study.json").exists():
            raise SettingsError(f"{folder} exists and is no study's folder; name another folder")
        before = _read(folder / "study.json")
        if not (isinstance(before, dict) and isinstance(before.get("options"), dict)):
            raise SettingsError(f"{folder / 'study.json'} is no study's; name another folder")
        if before.get("study") != self.name:
            raise SettingsError(
                f"{folder} is of the study {before.get('study')}, not {self.name}; name another "
                "folder"
            )
        other = [
            f"{key}={before['options'].get(key)}"
            for key in sorted(before["options"] | self.options)
            if before["options"].get(key) != self.options.get(key)
        ]
        if other:
            raise SettingsError(
                f"{folder} was begun with {', '.join(other)}; go on with these, or name another "
                "folder"
            )

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._only.__exit__(None, None, None)
        if isinstance(error, OSError):
            raise kept(error, f"the same command with --out {self.folder}") from error
        if isinstance(error, KeyboardInterrupt):
            print(
                f"\nInterrupted. What is finished is kept: start it again with --out {self.folder}",
                file=sys.stderr,
            )

    # ---- text ------------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        """Print a paragraph (Markdown), and add it to report.md."""
        print(text + "\n", flush=True)
        self._write(text)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "") -> None:
        """Say a table: text to the left in the first column, the others to the right.

        Numbers come as text, with as many digits as are to be read.
        """
        cells = [[_cell(c) for c in row] for row in [columns, *rows]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "| " + " | ".join(c.rjust(w) if k else c.ljust(w) for k, (c, w) in enumerate(both))
            + " |"
            for both in (list(zip(row, widths, strict=True)) for row in cells)
        ]  # fmt: skip
        rule = [f"{'-' * (w - 1)}:" if k else "-" * w for k, w in enumerate(widths)]
        lines.insert(1, "| " + " | ".join(rule) + " |")
        if title:
            self.say(title)
        self.say("\n".join(lines))

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Save ``figures/name.png`` and ``.svg``, and put it into the report."""
        save_figure(figure, self.folder / "figures" / name)
        self._write(f"![{caption}](figures/{name}.png)\n\n{caption}")
        print(f"Figure: {self.folder / 'figures' / name}.png\n", flush=True)

    def _write(self, text: str) -> None:
        self._lines.append(text)
        write_text(self.folder / "report.md", "\n\n".join(self._lines) + "\n")

    # ---- results ---------------------------------------------------------------------------------

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """``make()``, of numbers, text, lists and dictionaries; kept as ``parts/name.json``.

        A study that goes on takes it from there. Arrays become lists, tuples too; keys text.
        """
        path = self.folder / "parts" / f"{name}.json"
        if not path.exists():
            with _Progress(name):
                write_text(path, _json(make()))
        return _read(path)

    def potential(self, name: str, train: Callable[[], Potential]) -> Potential:
        """``train()``, a trained potential; kept as ``potentials/name.safetensors``."""
        path = self.folder / "potentials" / f"{name}.safetensors"
        if not path.exists():
            with _Progress(name):
                train().save(path)
        return load(path)

    def finish(self, result: Mapping[str, Any], learnt: Sequence[str]) -> None:
        """Say what one learns, and write result.json: with it the study is finished."""
        self.say("## What one learns")
        for sentence in learnt:
            self.say(sentence)
        about = {
            "study": self.name,
            "anipot": __version__,
            "options": self.options,
            "seconds": round(time.monotonic() - self._began, 1),
            "learnt": list(learnt),
        }
        write_text(self.folder / "result.json", _json({**about, **result}))
        print(f"Report, figures and numbers: {self.folder}", flush=True)


def finished(history: History) -> History:
    """The history of a training that came to its end.

    A trainer stops at Ctrl-C and returns what it has; a study must not take that for a result.
    Raises KeyboardInterrupt then.
    """
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    return history


class _Progress:
    """Says on standard error what is being worked on, and how long it took."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self._began = time.monotonic()
        print(f"{self.name} ...", file=sys.stderr, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        told = f"{time.monotonic() - self._began:.0f} s" if kind is None else "not finished"
        print(f"{self.name}: {told}", file=sys.stderr, flush=True)


def _cell(value: Any) -> str:
    """A cell of a Markdown table: names of a data set's molecules, too, make no cells or tags."""
    text = " ".join(str(value).split()).replace("|", "\\|")
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)


def _plain(value: Any) -> Any:
    """As it is when it has been written and read."""
    return json.loads(_json(value))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, default=_jsonable) + "\n"


def _jsonable(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be kept as JSON; give numbers, lists, text")


def _read(path: Path) -> Any:
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as e:  # no JSON, or no text
        raise SettingsError(f"{path} is damaged ({e}); remove it, or name another folder") from None
