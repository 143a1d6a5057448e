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
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from anipot.config import MACHINE_OPTIONS
from anipot.data.division import Division
from anipot.data.provenance import index_hash
from anipot.errors import AnipotError, DataError, SettingsError, TrainingError, shortly
from anipot.experiments import shared_studies
from anipot.experiments.table import runs
from anipot.experiments.table.queues import Queue
from anipot.experiments.table.settings import TableSettings, check_same
from anipot.runs.run import run_settings
from anipot.system.files import damage_named, read_json, write_text

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

#: Where a shared table has its storage, in its folder.
STORAGE = "storage.json"

#: What the others have of a run, the last being what says that it has ended.
FILES = ("metrics.csv", "run.json", runs.OUTCOME)

#: Attributes of trials: which run, of which data and options, who took it, and the files that it
#: wrote; and of the study: of which tables.
_RUN, _MARK, _BY, _FILES, _TABLES = "run", "fingerprint", "by", "files", "anipot tables"


class Sharing(NamedTuple):
    """The study of a table (and of those that follow it) in whose folder ``root`` it is."""

    study: optuna.study.Study
    root: Path
    storage: str

    def queue(self, folders: Sequence[Path]) -> Queue:
        """Some runs of the table, shared with whoever works on it."""
        return SharedQueue(self, folders)


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
        before = _where(root)
        if before != about:
            raise SettingsError(
                f"{root} holds table {before['name']!r} of storage {before['storage']}; for "
                "another one, name another folder"
            )
    study = shared_studies.open_study(where, name)
    known = study.user_attrs.get(_TABLES)
    if known is None:
        study.set_user_attr(_TABLES, identities)
    elif not isinstance(known, dict) or sorted(known) != sorted(identities):
        raise SettingsError(
            f"{name!r} of this storage is no such table; give another --name, or leave it out"
        )
    else:
        with damage_named(f"storage {storage}", way_out="give another --name"):
            for below, identity in identities.items():
                check_same(identity, known[below], f"table {name!r} of this storage")
    write_text(root / STORAGE, json.dumps(about, indent=1) + "\n")


def sharing_of(root: Path) -> Sharing | None:
    """Return how a table in a folder is shared, or None."""
    if not (root / STORAGE).exists():
        return None
    about = _where(root)
    with damage_named(root / STORAGE):
        study = shared_studies.open_study(about["storage"], about["name"])
    return Sharing(study, root, about["storage"])


def _where(root: Path) -> dict[str, Any]:
    """The storage of a table, and what the table is called there."""
    way_out = "remove it, and give the command with which the table was begun again"
    about = read_json(root / STORAGE, way_out=way_out)
    if not all(isinstance(about.get(key), str) for key in ("storage", "name")):
        raise SettingsError(f"{root / STORAGE}: does not say storage and name; {way_out}")
    return about


def _identity(settings: TableSettings) -> dict[str, Any]:
    """Settings that two commands must share to join one table: not where the data are."""
    machines = {"base": {"training": MACHINE_OPTIONS}}
    found: dict[str, Any] = settings.model_dump(mode="json", exclude=machines)
    found["base"]["data"]["files"] = [Path(f).name for f in settings.base.data.files]
    return found


class SharedQueue(Queue):
    """Runs of which others train some; what they find is brought here.

    Whoever takes a run adds a trial that is running; of several at the same moment the first has
    it. A trial fails when its run was interrupted, or is not tried again for want of memory.
    """

    look_every = 2.0

    #: Seconds after which a trial that is not signed is one whose process was killed. They are
    #: counted here, since clocks of machines can differ.
    dead_after = 10 * shared_studies.SIGN_OF_LIFE

    def __init__(self, sharing: Sharing, folders: Sequence[Path]) -> None:
        super().__init__(folders)
        self.study, self.root, self.storage = sharing.study, sharing.root, sharing.storage
        self._folders = {self._name(folder): folder for folder in folders}
        self._me = uuid.uuid4().hex
        self._held: dict[Path, optuna.Trial] = {}
        self._signed: dict[int, tuple[Any, float]] = {}
        self._marks: dict[Path, str] = {}
        self._closed = threading.Event()
        with self._reaching():
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
        try:
            with self._reaching():
                for trial in self._mine():  # also what was being taken at that moment
                    self._end(self._folders[trial.user_attrs[_RUN]], trial)
        except TrainingError:
            if not isinstance(error, Exception):  # else that is what there is to tell
                raise

    def take(self) -> Path | None:
        """The first run that nobody has."""
        with self._reaching():
            self._bury()
            trials = self._trials()
            for folder in self.left:
                trial = trials.get(self._name(folder))
                if trial is not None:
                    self._check(folder, trial)
                elif folder not in self._held and self._claim(folder):
                    return folder
        return None

    def finish(self, folder: Path, finished: bool) -> None:
        super().finish(folder, finished)
        trial = self._held.pop(folder)
        with self._reaching():
            self._end(folder, trial)

    def brought(self) -> list[Path]:
        with self._reaching():
            trials = self._trials()
        found = []
        for folder in self.left:
            trial = trials.get(self._name(folder))
            if trial is None or trial.state.name != "COMPLETE" or folder in self._held:
                continue
            self._check(folder, trial)
            if not runs.ended(folder):
                for name, text in self._received(folder, trial).items():
                    write_text(folder / name, text)
            found.append(folder)
        self.left = [folder for folder in self.left if folder not in found]
        return found

    # ---- the study -------------------------------------------------------------------------------

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        """Raises TrainingError where the storage cannot be reached any more."""
        try:
            yield
        except AnipotError:
            raise
        except shared_studies.failures() as e:
            raise TrainingError(
                f"storage {self.storage}: cannot be used any more: {shared_studies.reason(e)}; "
                f"what was trained is kept; to go on: anipot iterate --resume {self.root}"
            ) from e

    def _trials(self) -> dict[str, FrozenTrial]:
        """The trial that counts of each run: finished where one is, else the first that runs."""
        found: dict[str, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.state.name not in ("RUNNING", "COMPLETE") or _RUN not in trial.user_attrs:
                continue
            name = trial.user_attrs[_RUN]
            known = found.get(name)
            if known is None or (trial.state.name == "COMPLETE" != known.state.name):
                found[name] = trial
        return found

    def _mine(self) -> list[optuna.Trial]:
        """Running trials of this process."""
        import optuna

        return [
            optuna.Trial(self.study, trial._trial_id)
            for trial in self.study.get_trials(deepcopy=False)
            if trial.state.name == "RUNNING" and trial.user_attrs.get(_BY) == self._me
        ]

    def _claim(self, folder: Path) -> bool:
        """Take a run; False where another was quicker."""
        import optuna

        attributes = self._attributes(folder) | shared_studies.signature()
        state = optuna.trial.TrialState.RUNNING
        self.study.add_trial(optuna.create_trial(state=state, user_attrs=attributes))
        name = self._name(folder)
        (mine,) = (trial for trial in self._mine() if trial.user_attrs[_RUN] == name)
        if self._trials()[name].number != mine.number:
            self.study.tell(mine, state=optuna.trial.TrialState.FAIL)
            return False
        self._held[folder] = mine
        return True

    def _end(self, folder: Path, trial: optuna.Trial) -> None:
        """Tell of a run that was taken what came out, or let others have it."""
        import optuna

        with shared_studies.already_ended():  # by others, who took this process for a dead one
            if runs.ended(folder):
                trial.set_user_attr(_FILES, _files(folder))
                self.study.tell(trial, 0.0, skip_if_finished=True)
            else:  # interrupted, or without the memory that another machine may have
                failed = optuna.trial.TrialState.FAIL
                self.study.tell(trial, state=failed, skip_if_finished=True)

    def _publish(self, folders: Sequence[Path]) -> None:
        """Let the others have runs that had ended here before they were shared."""
        import optuna

        trials = self._trials()
        for folder in folders:
            known = trials.get(self._name(folder))
            if known is not None and known.state.name == "COMPLETE":
                continue
            attributes = self._attributes(folder) | {_FILES: _files(folder)}
            self.study.add_trial(optuna.create_trial(value=0.0, user_attrs=attributes))

    def _attributes(self, folder: Path) -> dict[str, Any]:
        return {_RUN: self._name(folder), _MARK: self._mark(folder), _BY: self._me}

    def _bury(self) -> None:
        """End the trials of processes that were killed, so that their runs are free."""
        import optuna

        failed = optuna.trial.TrialState.FAIL
        for trial in self._trials().values():
            running = trial.state.name == "RUNNING" and trial.user_attrs.get(_BY) != self._me
            if running and self._dead(trial):
                with shared_studies.already_ended():
                    self.study.tell(trial.number, state=failed, skip_if_finished=True)

    def _dead(self, trial: FrozenTrial) -> bool:
        now, signed = time.monotonic(), trial.user_attrs.get(shared_studies.SEEN)
        if self._signed.get(trial.number, (None, now))[0] != signed:
            self._signed[trial.number] = (signed, now)
        unsigned = now - self._signed[trial.number][1]
        return unsigned > self.dead_after or shared_studies.killed_here(trial)

    def _sign(self) -> None:
        """Sign what is being trained, again and again."""
        while not self._closed.wait(shared_studies.SIGN_OF_LIFE):
            for trial in list(self._held.values()):
                # One sign may fail: of a storage that stays away the next use tells.
                with suppress(Exception):
                    shared_studies.sign(trial)

    # ---- runs ------------------------------------------------------------------------------------

    def _name(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _mark(self, folder: Path) -> str:
        """Properties a run must have in common on all machines: conformers, division, options."""
        if folder not in self._marks:
            elsewhere = {"data": {"files"}, "training": MACHINE_OPTIONS}
            settings = run_settings(folder).model_dump(mode="json", exclude=elsewhere)
            division = Division.load(folder / "split.npz")
            told = [settings, division.data_hash, *map(index_hash, division)]
            text = json.dumps(told, sort_keys=True)
            self._marks[folder] = hashlib.sha256(text.encode()).hexdigest()
        return self._marks[folder]

    def _check(self, folder: Path, trial: FrozenTrial) -> None:
        if trial.user_attrs.get(_MARK) != self._mark(folder):
            raise DataError(
                f"{folder}: this run is shared by machines that have other data: all must have the "
                "same files; or another version of anipot with other defaults. Where others have "
                "the wrong ones, begin anew with a --name of its own"
            )

    def _received(self, folder: Path, trial: FrozenTrial) -> dict[str, str]:
        """The files of a run that another process has trained.

        Whoever reaches a storage can put anything there: nothing but texts of the known names is
        written, and nothing of a run that has anything else.
        """
        where = f"{self.storage}: what it holds of the run {self._name(folder)}"
        way_out = (
            "the storage was changed, or written by another version of anipot: begin anew with a "
            "--name of its own"
        )
        with damage_named(where, DataError, way_out):
            found: dict[str, Any] = trial.user_attrs[_FILES]
            other = sorted(map(str, found.keys() - FILES))
            if other:
                raise DataError(f"there are files that no run shares: {shortly(other)}")
            if not all(isinstance(text, str) for text in found.values()):
                raise DataError("a file is no text")
            runs.outcome(json.loads(found[runs.OUTCOME]))
        return {name: found[name] for name in FILES if name in found}


def _files(folder: Path) -> dict[str, str]:
    found = [folder / name for name in FILES]
    return {path.name: path.read_text(encoding="utf-8") for path in found if path.exists()}
