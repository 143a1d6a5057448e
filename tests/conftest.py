"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest
import torch

# Tests are many small calculations: a second thread costs more than it brings, and runs of two
# processes side by side would fight for the cores.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent


def _shared(part: str) -> Path:
    given = os.environ.get("ANIPOT_SHARED")
    folder = (Path(given) if given else ROOT.parent / "shared") / part
    if not folder.is_dir():
        pytest.skip(f"{part} of the shared material not found; name its folder in ANIPOT_SHARED")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with real ANI-1 files and other data that is not part of the repository."""
    return _shared("data")


@pytest.fixture(scope="session")
def shared_potentials() -> Path:
    """Folder with the published potentials in NeuroChem's format."""
    return _shared("potentials")
