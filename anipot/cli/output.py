"""What commands say of the files that they write, and when they show a progress bar."""

from __future__ import annotations

import sys
from pathlib import Path

#: Conformers of one batch of a prediction: fewer are done before a bar is of use.
_ONE_BATCH = 1024


def shows_progress(n: int) -> bool:
    """Whether a bar over ``n`` conformers is of use: there is someone to see it, and time."""
    return n > _ONE_BATCH and sys.stderr.isatty()


def written(path: str | Path, existed: bool) -> str:
    """The name of what was written, and whether there was something of that name."""
    return f"{path} (replaced)" if existed else str(path)
