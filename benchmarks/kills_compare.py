"""What a run that was killed and gone on with left, beside what one left that never was.

All files must be equal, to the last bit, but for times, time stamps and memory: columns of tables
and entries of JSON that hold them, figures of them, and numbers with the unit of a time in texts. A
log.txt holds what was printed, by every process that went on: all lines that the other log has must
be in it, in their order.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

#: What the harness itself writes.
_OURS = {"printed.txt", "seconds", "trials-now.json"}

#: Columns of tables, and entries of JSON, that are times or memory.
_TIMES = re.compile(r"seconds|memory|finished_at|_s$|cost")

#: In texts: numbers with the unit of a time or of memory, and dates.
_TIME = re.compile(
    r"(about |< ?)?\d[\d,.]*(e[-+]?\d+)?\s*(s|ms|min|minutes|seconds|h|MB|GB)\b"
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d([+-]\d{4}|[.\d]*)"
)

#: In titles of columns in texts.
_UNIT = re.compile(r"(?<![\w/])(s|MB|GB)(?![\w/])")

#: Figures that show times, or memory.
_FIGURES = re.compile(r"cost|time|memory|seconds")


def differences(whole: Path, folder: Path) -> list[str]:
    """What is not in ``folder`` as in ``whole``, the folder of the run that was never killed."""
    names = [_names(f) for f in (whole, folder)]
    found = [f"{n}: is not there" for n in sorted(names[0] - names[1])]
    found += [f"{n}: should not be there" for n in sorted(names[1] - names[0])]
    for name in sorted(names[0] & names[1]):
        try:
            said = _compare(whole, folder, name)
        except Exception as e:  # a damaged file raises anything at all
            said = f"cannot be read: {type(e).__name__}: {e}"
        if said:
            found.append(f"{name}: {said}")
    return found


def _names(folder: Path) -> set[str]:
    files = (f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
    return {str(f) for f in files if f.name not in _OURS}


def _compare(whole: Path, folder: Path, name: str) -> str:
    a, b = whole / name, folder / name
    if a.read_bytes() == b.read_bytes():
        return ""
    texts = {".json", ".csv", ".txt", ".html", ".md", ".yaml", ".svg"}
    if a.suffix not in texts and a.name != "checkpoint.pt":
        return "" if _of_times(a) else "other bytes"
    if a.name == "checkpoint.pt":
        return _checkpoint(a, b)
    one, two = _text(a, whole), _text(b, folder)
    if a.suffix == ".json":
        return _first(_flat(json.loads(one)), _flat(json.loads(two)))
    if a.suffix == ".csv":
        return _first(_rows(one), _rows(two))
    if a.name == "log.txt":
        return _within(one.splitlines(), two.splitlines())
    if a.suffix == ".svg" and _of_times(a):
        return ""
    return _first(_lines(one), _lines(two))


def _of_times(figure: Path) -> bool:
    return figure.suffix in (".png", ".svg") and bool(_FIGURES.search(figure.stem))


def _text(path: Path, folder: Path) -> str:
    return path.read_text(encoding="utf-8").replace(str(folder), "FOLDER")


def _lines(text: str) -> list[str]:
    """Lines without times, rows of tables in Markdown and HTML without their columns of times."""
    lines, before, dropped = [], "", set[int]()
    for line in text.splitlines():
        if line.startswith("|"):
            cells, is_head = line.split("|"), not before.startswith("|")
        else:
            cells = re.findall(r"<t[hd]\b.*?</t[hd]>", line)
            is_head = bool(cells) and "<td" not in line
        if is_head:
            titles = [re.sub("<.*?>", " ", cell) for cell in cells]
            dropped = {k for k, title in enumerate(titles) if _UNIT.search(title)}
        if cells:
            line = "|".join(cell for k, cell in enumerate(cells) if k not in dropped)
        lines.append(_TIME.sub("TIME", line))
        before = line if cells else ""
    return lines


def _rows(text: str) -> list[str]:
    rows = list(csv.reader(text.splitlines()))
    kept = [k for k, title in enumerate(rows[0]) if not _TIMES.search(title)]
    return [",".join(row[k] for k in kept if k < len(row)) for row in rows]


def _flat(value: Any, at: str = "") -> list[str]:
    """The numbers and words of JSON, a line each, without times."""
    if isinstance(value, dict):
        parts = [_flat(v, f"{at}.{k}") for k, v in value.items() if not _TIMES.search(str(k))]
        return [line for part in parts for line in part]
    if isinstance(value, list):
        return [line for k, v in enumerate(value) for line in _flat(v, f"{at}[{k}]")]
    return [f"{at} {value!r}"]


def _first(one: list[str], two: list[str]) -> str:
    """The first line that differs."""
    for k, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), 0)
            start = max(at - 40, 0)
            return f"line {k + 1}: {b[start : at + 60]!r} instead of {a[start : at + 60]!r}"
    return "" if len(one) == len(two) else f"{len(two)} lines instead of {len(one)}"


def _within(one: list[str], two: list[str]) -> str:
    """Whether all lines of a log are among those of another, in their order."""
    rest = iter(re.sub(r"\s+", " ", _TIME.sub("TIME", line)) for line in two)
    for line in one:
        wanted = re.sub(r"\s+", " ", _TIME.sub("TIME", line))
        if not any(line == wanted for line in rest):
            return f"without the line {wanted!r}, or not in that place"
    return ""


def _checkpoint(a: Path, b: Path) -> str:
    import torch

    one, two = (torch.load(p, map_location="cpu", weights_only=True) for p in (a, b))
    return _first(_state(one), _state(two))


def _state(value: Any, at: str = "") -> list[str]:
    import torch

    if isinstance(value, torch.Tensor):
        return [f"{at} {value.dtype} {tuple(value.shape)} {value.numpy().tobytes().hex()}"]
    if isinstance(value, dict):
        parts = [_state(v, f"{at}.{k}") for k, v in value.items() if not _TIMES.search(str(k))]
        return [line for part in parts for line in part]
    if isinstance(value, list | tuple):
        return [line for k, v in enumerate(value) for line in _state(v, f"{at}[{k}]")]
    return [f"{at} {value!r}"]


# ---- searches ------------------------------------------------------------------------------------


def write_trials(folder: Path) -> None:
    """Write the trials of the search in a folder as JSON, as they are now."""
    import optuna

    from anipot.experiments import shared_studies
    from anipot.experiments.search import storage

    found: list[dict[str, Any]] = []
    where = folder / "search" / "trials.journal"
    address = str(where) if where.exists() else f"sqlite:///{folder / 'trials.db'}"
    if where.exists() or (folder / "trials.db").exists():
        shared_studies.need_optuna()
        backend = shared_studies.backend(address)
        for name in optuna.get_all_study_names(backend):
            for t in optuna.load_study(study_name=name, storage=backend).trials:
                found.append({
                    # Those of a trial that was killed before it drew them are given.
                    "params": {**t.system_attrs.get("fixed_params", {}), **t.params},
                    "number": t.number, "state": t.state.name,
                    "value": t.value, "counts": storage.counts(t),
                    "why": t.user_attrs.get(storage.INTERRUPTED, ""),
                    "repeats": storage.REPEATS in t.user_attrs,
                    "reported": {str(k): v for k, v in t.intermediate_values.items()},
                })  # fmt: skip
    (folder / "trials-now.json").write_text(json.dumps(found))


def enqueue_all(folder: Path, values: dict[str, list[Any]]) -> None:
    """Have the search in a folder try every combination of values."""
    import optuna

    from anipot.experiments import shared_studies

    shared_studies.need_optuna()
    where = folder / "search" / "trials.journal"
    backend = shared_studies.backend(
        str(where) if where.exists() else f"sqlite:///{folder / 'trials.db'}"
    )
    (name,) = optuna.get_all_study_names(backend)
    study = optuna.load_study(study_name=name, storage=backend)
    for chosen in itertools.product(*values.values()):
        study.enqueue_trial(dict(zip(values, chosen, strict=True)), skip_if_exists=True)


def read_trials(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "trials-now.json").read_text()))


def search_differences(
    whole: list[dict[str, Any]],
    seen: list[list[dict[str, Any]]],
    folder: Path,
    wanted: int,
) -> list[str]:
    """What is wrong with the trials of a search that was killed.

    ``seen`` are its trials after each kill, and at its end; ``whole`` those of a search of the
    whole space that was never killed.
    """
    found, last = [], seen[-1]
    counted = [t for t in last if t["counts"]]
    if len(counted) != wanted:
        found.append(f"{len(counted)} trials are counted instead of {wanted}")
    if any(t["state"] != "COMPLETE" for t in counted):
        found.append(f"states of counted trials: {[t['state'] for t in counted]}")
    options = [_options(t) for t in counted]
    found += [f"{o} is counted {n} times" for o, n in Counter(options).items() if n > 1]
    expected = {_options(t): (t["value"], t["reported"]) for t in whole if t["counts"]}
    for t in counted:
        right = expected.get(_options(t))
        if right != (t["value"], t["reported"]):
            found.append(f"trial {t['number']}: {t['value']}, {t['reported']} instead of {right}")
    killed = Counter(_options(t) for t in last if t["why"] == "killed")
    for trials in seen[:-1]:
        for before, now in zip(trials, last, strict=False):
            if before["state"] == "COMPLETE" and before != now:
                found.append(f"trial {before['number']} had ended, and is another one now")
        if len(trials) > len(last):
            found.append(f"{len(trials) - len(last)} trials are gone")
    for o, n in killed.items():
        # It may have been killed before it drew all of its options.
        again = any(json.loads(o).items() <= json.loads(c).items() for c in options)
        if o != "{}" and n < 2 and not again:
            found.append(f"{o} was killed once, and not tried again")
    if any(t["state"] in ("RUNNING", "WAITING") and t["counts"] for t in last):
        found.append("a trial is still running")
    listed = list(csv.DictReader((folder / "search" / "trials.csv").read_text().splitlines()))
    if [int(row["trial"]) for row in listed] != [t["number"] for t in counted]:
        found.append("trials.csv lists other trials")
    return found + _leftovers(folder)


def _options(trial: dict[str, Any]) -> str:
    return json.dumps(trial["params"], sort_keys=True)


def _leftovers(folder: Path) -> list[str]:
    """Temporary files of processes that were killed."""
    return [f"{n}: should not be there" for n in sorted(_names(folder)) if "/." in f"/{n}"]
