"""Optuna's studies in storages that processes and machines share: opening one, and who works there.

A storage is a file on a disk that all reach (an Optuna journal), or a data base. A study in it has
trials; who works on one signs it from time to time, so that the trials of those who were killed can
be told from the others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import socket
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anipot.errors import SettingsError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Seconds in which a trial that is being worked on is signed again; after an hour without a sign
#: its process was killed.
SIGN_OF_LIFE = 60.0
_DEAD_AFTER = 3600.0

#: Attributes of trials: who works on it, and when that was last seen.
WHERE, SEEN = "where", "seen"


def need_optuna() -> Any:
    """Optuna, without its chatter. Raises SettingsError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise SettingsError(
            "searches and shared tables need Optuna, which is not installed: "
            "pip install 'anipot[search]'"
        ) from None
    optuna.logging.set_verbosity(logging.ERROR)
    return optuna


def open_study(storage: str, name: str, **more: Any) -> optuna.study.Study:
    """The study of that name, begun where it is not there yet.

    ``storage``: an address such as ``sqlite:///x.db`` or ``postgresql://...``, or a file, which
    becomes an Optuna journal. ``more``: for ``optuna.create_study``. Raises SettingsError for a
    storage that cannot be opened.
    """
    optuna = need_optuna()
    try:
        return optuna.create_study(
            storage=backend(storage),
            study_name=name,
            direction="minimize",
            load_if_exists=True,
            **more,
        )
    except ImportError as e:
        raise SettingsError(
            f"storage {storage}: its driver is not installed: pip install {e.name}"
        ) from None
    except Exception as e:  # whatever the driver of a data base raises
        reason = str(e).strip().split("\n")[0]
        raise SettingsError(f"storage {storage}: cannot be opened: {reason}") from None


def backend(storage: str) -> Any:
    """Optuna's storage at an address, or in a journal file."""
    optuna = need_optuna()
    if "://" in storage:
        more: dict[str, Any] = {}
        if storage.startswith("sqlite"):  # where several processes wait for each other
            more["connect_args"] = {"timeout": 60}
        return optuna.storages.RDBStorage(storage, engine_kwargs=more)
    journal = optuna.storages.journal
    path = str(Path(storage).resolve())
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # The other kind of lock needs symbolic links, and waits for ever for one left by a dead process
    # whose path was relative.
    return optuna.storages.JournalStorage(
        journal.JournalFileBackend(path, lock_obj=journal.JournalFileOpenLock(path))
    )


def absolute_storage(storage: str) -> str:
    """A storage as it can be named from any folder."""
    return storage if "://" in storage else str(Path(storage).resolve())


def default_name(kind: str, identity: Any) -> str:
    """What a study is called where nobody says: the same for the same on every machine."""
    text = json.dumps(identity, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def sign(trial: optuna.Trial) -> None:
    """Say who works on a trial, and that it still does."""
    trial.set_user_attr(WHERE, [socket.gethostname(), os.getpid()])
    trial.set_user_attr(SEEN, time.time())


def already_ended() -> AbstractContextManager[None]:
    """Within it nothing happens to a trial that another process has ended."""
    optuna = need_optuna()
    return suppress(optuna.exceptions.UpdateFinishedTrialError, ValueError, RuntimeError)


def dead(trial: FrozenTrial) -> bool:
    """Whether the process that works on a trial was killed."""
    host, process = trial.user_attrs.get(WHERE, ("", 0))
    if host == socket.gethostname() and not alive(process):
        return True
    assert trial.datetime_start is not None
    seen = trial.user_attrs.get(SEEN, trial.datetime_start.timestamp())
    return bool(time.time() - seen > _DEAD_AFTER)


def alive(process: int) -> bool:
    """Whether a process of this machine lives; this one works on nothing yet."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
