"""Files of torch.save: checksums of their zip archives, with and without."""

from __future__ import annotations

import io
import logging
import random
import zipfile
from pathlib import Path

import pytest
import torch

import anipot
from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError
from anipot.potential.model import ANIModel
from anipot.system.files import zip_damage

SETTINGS = AEVSettings.cover("HO", 3.0, 2.5, 2, 2, 2)


@pytest.fixture(autouse=True)
def quiet(caplog) -> None:
    caplog.set_level(logging.ERROR, "anipot")


@pytest.fixture
def model() -> ANIModel:
    return ANIModel.create("HO", hidden=[3], seed=1, aev=SETTINGS)


def saved(model: ANIModel, path: Path) -> bytes:
    torch.save(model.to_torchani().state_dict(), path)
    return path.read_bytes()


def weights(path: Path) -> list[bytes]:
    potential = anipot.load(path)
    return [t.numpy().tobytes() for t in potential.state_dict().values()]


def places(raw: bytes) -> list[tuple[str, int, int]]:
    """(name, begin, size) of the entries of an archive."""
    found = []
    for entry in zipfile.ZipFile(io.BytesIO(raw)).infolist():
        header = raw[entry.header_offset : entry.header_offset + 30]
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        found.append((entry.filename, entry.header_offset + 30 + lengths, entry.file_size))
    return found


def test_a_flipped_bit_in_any_tensor_is_refused(model, tmp_path):
    path = tmp_path / "m.pt"
    raw = saved(model, path)
    for name, begin, size in places(raw):
        if "/data/" in name:
            changed = bytearray(raw)
            changed[begin + size // 2] ^= 0x10
            path.write_bytes(changed)
            with pytest.raises(PotentialError, match=f"m.pt: damaged: {name} in it does not"):
                anipot.load(path)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_changes_no_weight(seed, model, tmp_path):
    path = tmp_path / "m.pt"
    raw = saved(model, path)
    right = weights(path)
    rng = random.Random(seed)
    refused = 0
    for _ in range(15):
        changed = bytearray(raw)
        changed[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            assert weights(path) == right
        except PotentialError:
            refused += 1
    assert refused


def test_the_mark_of_a_folder_is_refused(model, tmp_path):
    """torch would read uninitialized memory for such an entry."""
    path = tmp_path / "m.pt"
    raw = bytearray(saved(model, path))
    name = next(n for n, _, size in places(bytes(raw)) if "/data/" in n and size == 4)
    entry = raw.rindex(name.encode())  # in the directory at the end
    assert raw[entry - 46 : entry - 42] == b"PK\x01\x02"
    raw[entry - 46 + 38] |= 0x10
    path.write_bytes(raw)
    with pytest.raises(PotentialError, match=f"{name} in it does not match"):
        anipot.load(path)


def test_files_without_checksums_are_read(model, tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        raw = saved(model, tmp_path / "without.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert not any(e.CRC for e in zipfile.ZipFile(io.BytesIO(raw)).infolist())
    saved(model, tmp_path / "with.pt")
    assert weights(tmp_path / "without.pt") == weights(tmp_path / "with.pt")
    torch.save(
        model.to_torchani().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False
    )
    assert weights(tmp_path / "old.pt") == weights(tmp_path / "with.pt")


def test_the_damaged_entry_of_any_zip_archive_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("one", b"1" * 3_000_000)
        archive.writestr("two", b"2" * 10)
    assert zip_damage(path) is None
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"2" * 10, b"2" * 9 + b"3"))
    assert zip_damage(path) == "two"
    path.write_bytes(raw[:100])
    with pytest.raises(zipfile.BadZipFile):
        zip_damage(path)
