"""Checkpoints: all that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from anipot.errors import TrainingError, cut
from anipot.system.files import atomic_write, zip_damage
from anipot.training.checkpoint_content import fitting

FORMAT = "anipot checkpoint 1"


@dataclass
class CheckpointFile:
    """The checkpoint of one training.

    ``fingerprint`` identifies options and data, ``engine`` the AEV engine: another one gives other
    bits, so a training goes on only with its own.
    """

    path: Path
    fingerprint: str
    engine: str
    failed: str = ""

    def write(self, state: dict[str, Any]) -> None:
        """Write a checkpoint (atomic: the one before it survives until the new one is complete).

        A disk that is full must not end a training of hours: what went wrong is said, once, and
        the training goes on.
        """
        buffer = io.BytesIO()  # torch.save to a full disk raises errors that do not say so
        head = {"format": FORMAT, "fingerprint": self.fingerprint, "engine": self.engine}
        torch.save({**head, **state}, buffer)
        _seal(buffer)
        try:
            with atomic_write(self.path) as temporary:
                temporary.write_bytes(buffer.getbuffer())
        except OSError as e:
            if str(e) != self.failed:
                print(
                    f"anipot: the checkpoint {self.path} could not be written ({e.strerror}); the "
                    "training goes on without, and tries again",
                    file=sys.stderr,
                )
            self.failed = str(e)

    def read(self) -> dict[str, Any]:
        """Read the checkpoint. Nothing in it is executed (``weights_only``).

        Raises TrainingError when the file is missing or damaged (its checksum is checked), belongs
        to other options or data, or was made with another AEV engine.
        """
        path = self.path
        if not path.exists():
            raise TrainingError(
                f"{path}: no checkpoint there; the run stopped before its first one"
            )
        try:
            buffer = io.BytesIO(path.read_bytes())
        except OSError as e:
            raise TrainingError(f"{path}: cannot be read ({e.strerror})") from None
        try:
            if damaged := _damage(buffer):
                raise zipfile.BadZipFile(damaged)
            state = torch.load(buffer, map_location="cpu", weights_only=True)
        except Exception as e:  # whatever a damaged file makes of its readers
            raise self._damaged(e) from None
        known = state.get("format") if isinstance(state, dict) else None
        if not isinstance(known, str) or known != FORMAT:
            raise TrainingError(f"{path}: not a checkpoint of this version of anipot")
        with self.content():
            for key in ("fingerprint", "engine"):
                fitting(state.get(key), "", key)
        if state["fingerprint"] != self.fingerprint:
            raise TrainingError(
                f"{path}: the checkpoint belongs to other options or other data; a run can only be "
                "resumed with the options and the data files it began with"
            )
        if state["engine"] != self.engine:
            raise TrainingError(
                f"{path}: the training began with the {cut(state['engine'])} AEV engine and would "
                f"go on with the {self.engine} engine, to another result; see 'anipot info' for "
                "why the first is not available here"
            )
        return state

    @contextmanager
    def content(self) -> Iterator[None]:
        """Whatever the checkpoint's contents make of the block is a TrainingError that names it."""
        try:
            yield
        except Exception as e:
            raise self._damaged(e) from e

    def _damaged(self, error: Exception) -> TrainingError:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return TrainingError(
            f"{self.path}: the checkpoint is damaged ({cut(reason)}), and going on from it would "
            "lead to another result. Put a copy of it in its place if there is one; otherwise "
            "remove the file, and the training begins again from its start"
        )


# ---- checksum ------------------------------------------------------------------------------------

#: The comment at the end of the zip archive that torch.save makes: this, and a sha256 in hex of the
#: archive without it. Readers of zip archives, and anipot before it had this, pass over it.
_MARK = b"anipot sha256 "
_LENGTH = len(_MARK) + 64


def _seal(buffer: io.BytesIO) -> None:
    """Append the checksum to what torch.save has written."""
    with buffer.getbuffer() as whole:
        comment = _MARK + hashlib.sha256(whole).hexdigest().encode()
    buffer.seek(-2, io.SEEK_END)  # the length of the comment, which was 0
    buffer.write(len(comment).to_bytes(2, "little") + comment)


def _damage(buffer: io.BytesIO) -> str | None:
    """Evidence that a checkpoint is not as it was written, or None.

    One without a checksum, from an older anipot, is held against those of the zip archive.
    """
    with buffer.getbuffer() as whole:
        sealed, told = bytes(whole[-_LENGTH:-64]) == _MARK, bytes(whole[-64:])
        digest = hashlib.sha256(whole[: -_LENGTH - 2])
    digest.update(b"\0\0")  # the length of no comment
    if not sealed:
        entry = zip_damage(buffer)
        buffer.seek(0)
        return None if entry is None else f"{entry} in it does not match its checksum"
    return None if digest.hexdigest().encode() == told else "it does not match its checksum"
