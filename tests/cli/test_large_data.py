"""anipot data pack and anipot data fetch, as they are typed."""

import io
import tarfile

import h5py
import numpy as np
import pytest

from anipot.data.load import load_dataset
from anipot.data.published import fetch_ani1 as fetch_module
from anipot.data.published.bundled import bundled_path, load_bundled


@pytest.mark.slow
def test_pack_writes_a_store_that_trains(anipot, tmp_path, quick_figures):
    store, run = tmp_path / "store", tmp_path / "run"
    done = anipot("data", "pack", bundled_path(), "-o", store, "-w", 1)
    assert done.code == 0, done.err
    assert "7,419 conformers of 63 molecules" in done.out
    assert f"{store}: " in done.out
    assert "every block read back and checked" in done.out
    assert load_dataset(store).content_hash() == load_bundled().content_hash()
    done = anipot(
        "train", store, "updates=3", "hidden=4", "batch_size=16", "heavy_atoms=1", "-o", run
    )
    assert done.code == 0, done.err
    assert (run / "potential.safetensors").exists()


def test_pack_refuses_what_is_there_and_what_is_not(anipot, tmp_path):
    (tmp_path / "store").mkdir()
    done = anipot("data", "pack", bundled_path(), "-o", tmp_path / "store")
    assert done.code != 0
    assert "exists and is never overwritten" in done.err
    done = anipot("data", "pack", tmp_path / "no.h5", "-o", tmp_path / "other")
    assert done.code != 0
    assert f"no file {tmp_path / 'no.h5'}" in done.err
    assert not (tmp_path / "other").exists()


def test_a_store_that_was_changed_is_refused(anipot, tmp_path):
    store = tmp_path / "store"
    assert anipot("data", "pack", bundled_path(), "-o", store, "-w", 1).code == 0
    with (store / "energies.npy").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    done = anipot("data", "info", store)
    assert done.code != 0
    assert "energies.npy: block 1 of 1" in done.err


@pytest.fixture
def archive(tmp_path):
    """An archive with one conformer of methane in ani_gdb_s01.h5."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        group = file.create_group("gdb11_s01/gdb11_s01-0")
        group["species"] = np.array([b"C", b"H", b"H", b"H", b"H"])
        x = [[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]]
        group["coordinates"] = np.array([x], dtype=np.float32)
        group["energies"] = np.array([-40.5])
        group["smiles"] = np.array([b"C"])
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("ANI-1_release/ani_gdb_s01.h5")
        info.size = len(content.getvalue())
        tar.addfile(info, io.BytesIO(content.getvalue()))
    return path


def test_fetch_from_an_archive_on_the_disk(anipot, tmp_path, archive, monkeypatch):
    arguments = ["data", "fetch", "ani1", "--heavy-atoms", "1", "--archive", archive]
    done = anipot(*arguments, "-o", tmp_path / "s01.h5")
    assert done.code != 0
    assert "1 conformers in all, and 10,800 were published" in done.err
    monkeypatch.setattr(fetch_module, "CONFORMERS", {})
    done = anipot(*arguments, "-o", tmp_path / "s01.h5")
    assert done.code == 0, done.err
    assert done.out == f"{tmp_path / 's01.h5'}: 1 conformers of 1 molecules, checked\n"
    assert load_dataset(tmp_path / "s01.h5").energies.tolist() == [-40.5]


def test_fetch_says_what_can_be_asked_for(anipot, tmp_path):
    done = anipot("data", "fetch", "ani1", "--heavy-atoms", "9", "-o", tmp_path / "x.h5")
    assert done.code != 0
    assert "heavy atoms are a number from 1 to 8" in done.err
    assert anipot("data", "fetch", "ani7").code != 0


@pytest.mark.parametrize("command", ["pack", "fetch"])
def test_help_has_the_same_in_python(anipot, command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = anipot("data", command, "--help").out
    assert "In Python:" in shown
    assert max(map(len, shown.splitlines())) <= 88
