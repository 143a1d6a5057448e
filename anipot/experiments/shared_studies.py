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
import uuid
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anipot.errors import SettingsError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Seconds in which a trial that is being worked on is signed again; after so many without a sign
#: its process was killed.
SIGN_OF_LIFE = 60.0
_DEAD_AFTER = 3600.0

#: How often it is tried to open a data base, a second apart: of those who make its tables at the
#: same moment all but one fail.
_OPENINGS = 4

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
    from sqlalchemy.exc import DBAPIError

    failed = (DBAPIError, optuna.exceptions.StorageInternalError)
    for left in reversed(range(_OPENINGS)):
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
            if not left or not isinstance(e, failed):
                raise SettingsError(f"storage {storage}: cannot be opened: {reason(e)}") from None
            time.sleep(1)
    raise AssertionError("the last opening returns or raises")


def failures() -> tuple[type[Exception], ...]:
    """Exceptions of a storage (a database, or a file and its lock) that cannot be read."""
    from sqlalchemy.exc import SQLAlchemyError

    return (
        need_optuna().exceptions.OptunaError,
        SQLAlchemyError,
        OSError,
        RuntimeError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
    )


def reason(error: Exception) -> str:
    """Error message of a storage, in one line."""
    found = error.__cause__ or error  # Optuna's own speaks of invalid data
    return f"{type(found).__name__}: {str(found).strip()}".split("\n")[0]


def backend(storage: str) -> Any:
    """Optuna's storage at an address, or in a journal file."""
    optuna = need_optuna()
    if "://" in storage:
        # Between two runs, servers end connections that nobody uses.
        more: dict[str, Any] = {"pool_pre_ping": True}
        if storage.startswith("sqlite"):  # where several processes wait for each other
            more["connect_args"] = {"timeout": 60}
        found = optuna.storages.RDBStorage(storage, engine_kwargs=more)
        if storage.startswith("sqlite"):
            from sqlalchemy import event

            # SQLite locks nothing that is only read: two processes could both find a trial waiting
            # before either makes it its own.
            @event.listens_for(found.engine, "begin")
            def begin(connection: Any) -> None:
                connection.exec_driver_sql("BEGIN IMMEDIATE")

        return found
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
    if "://" not in storage:
        return str(Path(storage).resolve())
    driver, slashes, path = storage.partition(":///")
    if not driver.startswith("sqlite") or not path or path.startswith((":memory:", "file:")):
        return storage
    return f"{driver}{slashes}{Path(path).absolute()}"


def default_name(kind: str, identity: Any) -> str:
    """Default name of a study: equal on all machines for equal settings."""
    text = json.dumps(identity, sort_keys=True)
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def signature() -> dict[str, Any]:
    """Attributes of a trial that this process works on."""
    return {WHERE: [machine(), os.getpid()], SEEN: time.time()}


def sign(trial: optuna.Trial) -> None:
    """Say who works on a trial, and that it still does."""
    for key, value in signature().items():
        trial.set_user_attr(key, value)


def machine() -> str:
    """Unique name of this machine or container, several of which may share a host name."""
    numbers = Path("/proc/self/ns/pid")
    within = os.readlink(numbers) if numbers.is_symlink() else ""
    return f"{socket.gethostname()} {uuid.getnode():x} {within}"


def already_ended() -> AbstractContextManager[None]:
    """Ignore that another process has ended the trial already."""
    return suppress(need_optuna().exceptions.UpdateFinishedTrialError)


def killed_here(trial: FrozenTrial) -> bool:
    """Whether a process of this machine worked on a trial, and is no more."""
    match trial.user_attrs.get(WHERE):
        case [where, int(process)]:
            return where == machine() and not alive(process)
    return False


def dead(trial: FrozenTrial) -> bool:
    """Whether the process that works on a trial was killed."""
    if killed_here(trial):
        return True
    assert trial.datetime_start is not None
    seen = trial.user_attrs.get(SEEN)
    if not isinstance(seen, int | float):
        seen = trial.datetime_start.timestamp()
    return bool(time.time() - seen > _DEAD_AFTER)


def alive(process: int) -> bool:
    """Whether a process of this machine lives; this one works on nothing yet."""
    if process == os.getpid():
        return False
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
