"""Load saved potentials: ``load`` recognises the format of a file, in the order of ``_FORMATS``."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from anipot.aev.computer import load_engine
from anipot.data.published.bundled import bundled_path
from anipot.errors import AnipotError, DataError, PotentialError, SettingsError
from anipot.formats import published
from anipot.formats.anipot_format import is_anipot, read_anipot
from anipot.formats.neurochem import is_neurochem, read_neurochem
from anipot.formats.notebook import is_notebook, read_notebook
from anipot.formats.safe_reading import not_understood
from anipot.formats.torchani_format import is_torchani, read_torchani
from anipot.networks.atomic import DTYPES
from anipot.potential.base import Potential

#: The potential in the folder of a run.
IN_RUN = "potential.safetensors"

#: Potentials that come with anipot, and their files in ``data/``.
SHIPPED = {"anipot-hcno": "anipot-hcno.safetensors"}


class _Format(NamedTuple):
    title: str
    recognise: Callable[[Path], bool]
    read: Callable[..., Potential]


#: In the order in which they are tried.
_FORMATS = (
    _Format("anipot's own files (.safetensors)", is_anipot, read_anipot),
    _Format("NeuroChem's .info files and folders", is_neurochem, read_neurochem),
    _Format("state dicts of TorchANI's models", is_torchani, read_torchani),
    _Format("state dicts of notebooks and of MLatom", is_notebook, read_notebook),
)


def load(
    name_or_path: str | Path, *, engine: str = "auto", dtype: str | None = None, **hints: Any
) -> Potential:
    """Load a potential, ready for use (evaluation mode, on the CPU).

    ``name_or_path`` is a name ("ani1x", "ani1ccx", "ani2x" or "anipot-hcno") or a path: a file
    saved by anipot, the folder of a run of ``anipot train``, files of NeuroChem, or a state dict
    saved by TorchANI, MLatom or a notebook. A ``Path`` is never taken as a name. ``dtype``
    ("float32", "float64") is the precision of the networks; default: as in the file. ``hints`` are
    keyword arguments of the format's reader for values that its files do not hold, for example
    ``activation=`` of a notebook's networks (see ``formats/notebook.py``).

    Raises PotentialError with the file and the reason, and SettingsError for an engine that is not
    available or a hint that the format does not take.
    """
    if dtype is not None and dtype not in DTYPES:
        raise SettingsError(f"unknown precision dtype={dtype!r}; known: {', '.join(DTYPES)}")
    load_engine(engine)  # before all the work
    path, found = _find(name_or_path)
    known = [
        name
        for name, p in inspect.signature(found.read).parameters.items()
        if p.kind is p.KEYWORD_ONLY and name not in ("engine", "dtype")
    ]
    for name in hints:
        if name not in known:
            takes = f"they take {', '.join(known)}" if known else "they say everything themselves"
            raise SettingsError(f"{path}: {name}= is no hint for {found.title}; {takes}")
    try:
        potential = found.read(path, engine=engine, **hints)
    except AnipotError:
        raise
    except Exception as e:  # of a file that is damaged or made by hand
        raise PotentialError(f"{path}: {not_understood(e)}") from e
    return (potential if dtype is None else potential.to(DTYPES[dtype])).eval()


def _find(name_or_path: str | Path) -> tuple[Path, _Format]:
    """Return the file or folder to read, and its format."""
    path = Path(name_or_path)
    if isinstance(name_or_path, str):
        path = _named(name_or_path) or path
    try:
        there = path.exists()
    except OSError as e:  # a name too long, a folder that may not be read
        raise PotentialError(f"{path}: {e.strerror}") from None
    if not there:
        raise PotentialError(_unknown(path))
    if path.is_dir() and (path / IN_RUN).exists():
        path = path / IN_RUN
    elif path.is_dir() and (path / "options.yaml").exists():
        raise PotentialError(
            f"{path} is the folder of a run that has not saved its potential yet; to go on with "
            f"it: anipot train --resume {path}"
        )
    elif (path.parent / "options.yaml").exists() and path.name == "checkpoint.pt":
        beside = path.with_name(IN_RUN)
        name = f"name {beside}" if beside.exists() else f"the potential is saved as {IN_RUN}"
        raise PotentialError(
            f"{path} is the state of a training (anipot train --resume), not a potential; {name}"
        )
    for known in _FORMATS:
        if known.recognise(path):
            return path, known
    is_ = f"a folder without a {IN_RUN} or NeuroChem's files" if path.is_dir() else "no potential"
    raise PotentialError(
        f"{path} is {is_}; anipot reads {'; '.join(f.title for f in _FORMATS)}; and folders of runs"
    )


def _named(name: str) -> Path | None:
    """Return the file of a potential known by name; None for any other name."""
    if name.lower() in SHIPPED:
        try:
            return bundled_path(SHIPPED[name.lower()])
        except DataError as e:
            raise PotentialError(f"the potential {name!r} is not there: {e}") from None
    return published.find(name) if published.is_name(name) else None


def _unknown(path: Path) -> str:
    """Return the error message for a path that does not exist."""
    if path.suffix or len(path.parts) > 1:
        return f"{path}: there is no such file"
    names = [*published.NAMES, *SHIPPED]
    near = difflib.get_close_matches(path.name.lower(), names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return (
        f"{str(path)!r} is neither a file nor the name of a potential; {hint}"
        f"Known names: {', '.join(names)}"
    )
