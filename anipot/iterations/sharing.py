"""Tables whose runs are shared by several processes and machines, through an Optuna storage.

A table is a study there, and each of its runs a trial, called by its place in the table's folder.
Every process prepares all runs in a folder of its own (or in one that all reach), takes one after
another that nobody has, and puts what came out (not the weights) into the storage, from where the
others have it. So at the end each has the whole table.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from anipot import shared_studies
from anipot.config import MACHINE_OPTIONS
from anipot.datasets.division import Division
from anipot.errors import DataError, SettingsError
from anipot.files import write_text
from anipot.iterations import runs
from anipot.iterations.queues import Queue
from anipot.iterations.settings import TableSettings, check_same
from anipot.training.run import run_settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Where a shared table has its storage, in its folder.
STORAGE = "storage.json"

#: What the others have of a run, the last being what says that it has ended.
FILES = ("metrics.csv", "run.json", runs.OUTCOME)

#: Attributes of trials: which run, of which data and options, and the files that it wrote; and of
#: the study: of which tables.
_RUN, _MARK, _FILES, _TABLES = "run", "fingerprint", "files", "anipot tables"


class Sharing(NamedTuple):
    """The study of a table (and of those that follow it) in whose folder ``root`` it is."""

    study: optuna.study.Study
    root: Path

    def queue(self, folders: Sequence[Path]) -> Queue:
        """Some runs of the table, shared with whoever works on it."""
        return SharedQueue(self.study, self.root, folders)


def begin_sharing(
    root: Path, tables: Mapping[str, TableSettings], storage: str, name: str | None
) -> None:
    """Sign a table in a storage, or see that the one that is there is the same; remember where.

    Raises SettingsError for a storage that cannot be opened, or holds another of that name.
    """
    identities = {below: _identity(settings) for below, settings in tables.items()}
    name = name or shared_studies.default_name("table", identities)
    where = shared_studies.absolute_storage(storage)
    about = {"storage": where, "name": name}
    if (root / STORAGE).exists():
        before = json.loads((root / STORAGE).read_text(encoding="utf-8"))
        if before != about:
            raise SettingsError(
                f"{root} holds table {before['name']!r} of storage {before['storage']}; for "
                "another one, name another folder"
            )
    study = shared_studies.open_study(where, name)
    known = study.user_attrs.get(_TABLES)
    if known is None:
        study.set_user_attr(_TABLES, identities)
    elif sorted(known) != sorted(identities):
        raise SettingsError(
            f"{name!r} of this storage is no such table; give another --name, or leave it out"
        )
    else:
        for below, identity in identities.items():
            check_same(identity, known[below], f"table {name!r} of this storage")
    write_text(root / STORAGE, json.dumps(about, indent=1) + "\n")


def sharing_of(root: Path) -> Sharing | None:
    """How a table in a folder is shared; None where it is not."""
    file = root / STORAGE
    if not file.exists():
        return None
    about = json.loads(file.read_text(encoding="utf-8"))
    return Sharing(shared_studies.open_study(about["storage"], about["name"]), root)


def _identity(settings: TableSettings) -> dict[str, Any]:
    """What two commands must share to be one table: not where the data lies."""
    found: dict[str, Any] = settings.model_dump(mode="json")
    found["base"]["data"]["files"] = [Path(f).name for f in settings.base.data.files]
    for name in MACHINE_OPTIONS:
        del found["base"]["training"][name]
    return found


class SharedQueue(Queue):
    """Runs of which others train some; what they find is brought here."""

    look_every = 2.0

    def __init__(self, study: optuna.study.Study, root: Path, folders: Sequence[Path]) -> None:
        super().__init__(folders)
        self.study, self.root = study, root
        self._held: dict[Path, optuna.Trial] = {}
        self._tried: set[Path] = set()
        self._marks: dict[Path, str] = {}
        self._closed = threading.Event()
        self._publish([folder for folder in folders if folder not in self.left])

    def __enter__(self) -> Self:
        threading.Thread(target=self._sign, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        for folder in list(self._held):
            self.finish(folder, False)

    def take(self) -> Path | None:
        """The first run that is waiting; each is tried once by this process."""
        import optuna

        self._bury()
        trials = self._offered()
        for folder in self.left:
            trial = trials[self._name(folder)]
            if trial.state.name != "WAITING" or folder in self._tried:
                continue
            self._check(folder, trial)
            if _claimed(self.study, trial):
                held = optuna.Trial(self.study, trial._trial_id)
                shared_studies.sign(held)
                self._held[folder] = held
                self._tried.add(folder)
                return folder
        return None

    def finish(self, folder: Path, finished: bool) -> None:
        import optuna

        super().finish(folder, finished)
        trial = self._held.pop(folder)
        with shared_studies.already_ended():  # by others, who took this process for a dead one
            if runs.ended(folder):
                trial.set_user_attr(_FILES, _files(folder))
                self.study.tell(trial, 0.0)
            else:  # interrupted, or without the memory that another machine may have
                self.study.tell(trial, state=optuna.trial.TrialState.FAIL)
                self._enqueue(folder)

    def brought(self) -> list[Path]:
        trials = self._trials()
        found = []
        for folder in self.left:
            trial = trials.get(self._name(folder))
            if trial is None or trial.state.name != "COMPLETE":
                continue
            self._check(folder, trial)
            if not runs.ended(folder):
                for name, text in trial.user_attrs[_FILES].items():
                    write_text(folder / name, text)
            found.append(folder)
        self.left = [folder for folder in self.left if folder not in found]
        return found

    def elsewhere(self) -> int:
        names = {self._name(folder) for folder in self.left if folder not in self._held}
        trials = self._trials()
        return sum(trials[n].state.name == "RUNNING" for n in names if n in trials)

    # ---- the study -------------------------------------------------------------------------------

    def _trials(self) -> dict[str, FrozenTrial]:
        """The trial that counts of each run: finished where one is, else the first of those that
        wait or run. Two can wait, of processes that began at the same time; and failed ones were
        interrupted.
        """
        found: dict[str, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name == "FAIL" or _RUN not in trial.user_attrs:
                continue
            name = trial.user_attrs[_RUN]
            known = found.get(name)
            if known is None or (trial.state.name == "COMPLETE" != known.state.name):
                found[name] = trial
        return found

    def _offered(self) -> dict[str, FrozenTrial]:
        """As ``_trials``, with one for every run that is left."""
        trials = self._trials()
        missing = [folder for folder in self.left if self._name(folder) not in trials]
        for folder in missing:
            self._enqueue(folder)
        return self._trials() if missing else trials

    def _enqueue(self, folder: Path) -> None:
        attributes = {_RUN: self._name(folder), _MARK: self._mark(folder)}
        self.study.enqueue_trial({}, user_attrs=attributes)

    def _publish(self, folders: Sequence[Path]) -> None:
        """Let the others have runs that had ended here before they were shared."""
        import optuna

        trials = self._trials()
        for folder in folders:
            known = trials.get(self._name(folder))
            if known is not None and known.state.name == "COMPLETE":
                continue
            attributes = {
                _RUN: self._name(folder), _MARK: self._mark(folder), _FILES: _files(folder)
            }  # fmt: skip
            self.study.add_trial(optuna.create_trial(value=0.0, user_attrs=attributes))

    def _bury(self) -> None:
        """End the trials of processes that were killed; their runs are then offered again."""
        import optuna

        held = {trial.number for trial in self._held.values()}
        for trial in self._trials().values():
            running = trial.state.name == "RUNNING" and trial.number not in held
            if running and shared_studies.dead(trial):
                with shared_studies.already_ended():
                    self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _sign(self) -> None:
        """Sign what is being trained, again and again."""
        while not self._closed.wait(shared_studies.SIGN_OF_LIFE):
            for trial in list(self._held.values()):
                with shared_studies.already_ended():
                    shared_studies.sign(trial)

    # ---- runs ------------------------------------------------------------------------------------

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _mark(self, folder: Path) -> str:
        """What a run must have in common on all machines: conformers, their division, options."""
        if folder not in self._marks:
            settings = run_settings(folder).model_dump(mode="json")
            del settings["data"]["files"]
            for name in MACHINE_OPTIONS:
                del settings["training"][name]
            division = Division.load(folder / "split.npz")
            digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
            digest.update(division.data_hash.encode())
            for part in division:
                digest.update(part.astype("<i8").tobytes())
            self._marks[folder] = digest.hexdigest()
        return self._marks[folder]

    def _check(self, folder: Path, trial: FrozenTrial) -> None:
        if trial.user_attrs[_MARK] != self._mark(folder):
            raise DataError(
                f"{folder}: this run is shared by machines that have other data: all must have the "
                "same files; or another version of anipot with other defaults"
            )


def _files(folder: Path) -> dict[str, str]:
    found = [folder / name for name in FILES]
    return {path.name: path.read_text(encoding="utf-8") for path in found if path.exists()}


def _claimed(study: optuna.study.Study, trial: FrozenTrial) -> bool:
    """Make a waiting trial one's own; False where another was quicker."""
    import optuna

    with shared_studies.already_ended():
        # What study.ask does, which cannot be told which trial.
        return study._storage.set_trial_state_values(
            trial._trial_id, optuna.trial.TrialState.RUNNING
        )
    return False
