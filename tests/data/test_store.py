"""Stores: the same data as the files, refused where a byte is wrong, whole or not there."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anipot.data import pack as pack_module
from anipot.data import store as store_module
from anipot.data import views as views_module
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.data.published.bundled import bundled_path, load_bundled
from anipot.data.store import open_store
from anipot.errors import DataError, SettingsError


def crystals(n: int, seed: int) -> Conformers:
    """Periodic conformers with every label, of which some lack forces."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, n)
    atoms = int(sizes.sum())
    has = rng.random(n) < 0.6
    forces = rng.normal(size=(atoms, 3))
    forces[np.repeat(~has, sizes)] = np.nan
    return Conformers(
        rng.choice([3, 14], atoms),
        rng.normal(size=(atoms, 3)),
        np.concatenate([[0], np.cumsum(sizes)]),
        energies=rng.normal(size=n),
        forces=forces,
        cells=rng.normal(size=(n, 3, 3)),
        stress=rng.normal(size=(n, 3, 3)),
        masks={"forces": has},
    )


@pytest.fixture
def packed(tmp_path) -> Path:
    return pack([bundled_path()], tmp_path / "bundled.store", progress=False)


def equal(a: Conformers, b: Conformers) -> None:
    """Every field of two data sets is the same, arrays bit for bit."""
    for f in dataclasses.fields(Conformers):
        x, y = getattr(a, f.name), getattr(b, f.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, f.name
            np.testing.assert_array_equal(x, y, err_msg=f.name)
        elif f.name == "masks":
            assert set(x) == set(y)
            for label in x:
                np.testing.assert_array_equal(x[label], y[label])
        else:
            assert x == y, f.name


def test_a_store_holds_what_its_file_holds(packed):
    store, data = load_dataset(packed), load_bundled()
    assert store.mapped
    assert not data.mapped
    equal(store, data)
    # The hash that was written down is the one that the arrays have.
    assert store.content_hash() == data.content_hash() == dataclasses.replace(store).content_hash()


def test_several_files_are_as_concatenated(tmp_path):
    files = [tmp_path / f"{k}.npz" for k in range(3)]
    for k, file in enumerate(files):
        crystals(30 + k, k).save(file)
    parts = [Conformers.load(f) for f in files]
    # One part without forces, one in single precision.
    parts[1] = dataclasses.replace(parts[1], forces=None, masks={})
    single = parts[2].coordinates.astype(np.float32)
    parts[2] = dataclasses.replace(parts[2], coordinates=single)
    for part, file in zip(parts, files, strict=True):
        part.save(file)
    equal(load_dataset(pack(files, tmp_path / "s", progress=False)), load_dataset(files))


def test_files_are_read_side_by_side_in_the_same_order(tmp_path, shared_data):
    files = [shared_data / "ani_gdb_s01.h5", shared_data / "ani_gdb_s02_hydrocarbons.h5"]
    store = pack(files, tmp_path / "s", workers=2, progress=False)
    equal(load_dataset(store), load_dataset(files))
    again = pack([store, files[0]], tmp_path / "t", progress=False)
    equal(load_dataset(again), load_dataset([store, files[0]]))


def test_reading_in_small_pieces_changes_nothing(tmp_path, monkeypatch):
    from anipot.data import concatenation

    monkeypatch.setattr(concatenation, "PIECE", 7)
    crystals(50, 1).save(tmp_path / "a.npz")
    crystals(40, 2).save(tmp_path / "b.npz")
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    store = pack(files, tmp_path / "s", progress=False)
    monkeypatch.undo()
    equal(load_dataset(store), load_dataset(files))


# ---- damage --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), data=st.data())
def test_a_flipped_bit_is_refused_wherever_it_is(tmp_path_factory, place, bit, data):
    folder = tmp_path_factory.mktemp("flip")
    crystals(20, 0).save(folder / "a.npz")
    store = pack([folder / "a.npz"], folder / "s", progress=False)
    file = data.draw(st.sampled_from(sorted(store.iterdir())))
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1 << bit
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{file.name}"):
        open_store(store)


@pytest.mark.parametrize("name", ["coordinates.npy", "energies.npy", "offsets.npy", "store.json"])
def test_a_store_cut_short_is_refused_naming_the_file(packed, name):
    file = packed / name
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(DataError, match=name):
        open_store(packed, verify=False)


def test_the_message_names_block_and_conformers(packed, monkeypatch, tmp_path):
    monkeypatch.setattr(store_module, "BLOCK", 1 << 12)
    store = pack([bundled_path()], tmp_path / "blocks", progress=False)
    data = load_dataset(store)
    file = store / "energies.npy"
    head = file.stat().st_size - 8 * len(data)
    content = bytearray(file.read_bytes())
    content[head + 8 * 3000 + 2] ^= 4
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"energies\.npy: block 6 of 15 \(bytes") as found:
        load_dataset(store)
    span = str(found.value).split("conformers ")[1].split(")")[0].replace(",", "").split(" to ")
    assert int(span[0]) <= 3000 <= int(span[1])


def test_a_missing_array_and_another_version_are_refused(packed):
    (packed / "molecule.npy").rename(packed / "elsewhere")
    with pytest.raises(DataError, match=r"molecule\.npy"):
        open_store(packed)
    about = json.loads((packed / "store.json").read_text())
    about["format"] = "anipot store 9"
    (packed / "store.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="anipot store 9"):
        open_store(packed)


def test_training_refuses_a_changed_store(packed, anipot_command):
    file = packed / "coordinates.npy"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    code, err = anipot_command("train", packed, "epochs=1")
    assert code == 2
    assert "coordinates.npy: block 1 of 1" in err


@pytest.fixture
def anipot_command(monkeypatch, capsys, tmp_path):
    from anipot import cli

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.argv", ["anipot", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), capsys.readouterr().err

    return run


# ---- all or nothing ------------------------------------------------------------------------------


def test_an_existing_store_is_not_overwritten(packed):
    with pytest.raises(SettingsError, match="never overwritten"):
        pack([bundled_path()], packed)


def test_nothing_is_left_of_what_cannot_be_packed(tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"\x89HDF\r\n\x1a\n" + b"0" * 100)
    with pytest.raises(DataError, match=r"bad\.h5"):
        pack([bundled_path(), bad], tmp_path / "s", progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["bad.h5"]
    with pytest.raises(DataError, match="no file"):
        pack([tmp_path / "none.h5"], tmp_path / "s", progress=False)


def test_without_space_the_message_says_what_is_there_and_how_to_go_on(tmp_path, monkeypatch):
    crystals(20, 0).save(tmp_path / "data.npz")
    store = tmp_path / "store"

    def full(*given: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pack_module, "seal", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        pack([tmp_path / "data.npz"], store, progress=False)
    text = str(raised.value)
    assert f"the same command goes on with what is done, in {tmp_path / '.store.packing'}" in text
    assert str(store) in text
    monkeypatch.undo()
    monkeypatch.setattr(pack_module, "read_file", full)  # the file has been read
    pack([tmp_path / "data.npz"], store, progress=False)
    equal(load_dataset(store), load_dataset(tmp_path / "data.npz"))
    assert not (tmp_path / ".store.packing").exists()


def test_a_killed_packing_goes_on_with_the_file_at_which_it_was(tmp_path, monkeypatch):
    for k in range(3):
        crystals(20, k).save(tmp_path / f"{k}.npz")
    files = [tmp_path / f"{k}.npz" for k in range(3)]
    script = (
        "import os, sys, signal\n"
        "from anipot.data import pack as s\n"
        "real, done = s.read_file, []\n"
        "def read(path, *a):\n"
        "    if len(done) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    done.append(path)\n"
        "    return real(path, *a)\n"
        "s.read_file = read\n"
        "s.pack(sys.argv[2:], sys.argv[1], progress=False)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s"), *map(str, files)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "s").exists()
    read = []
    real = pack_module.read_file
    monkeypatch.setattr(
        pack_module, "read_file", lambda path, *a: (read.append(Path(path)), real(path, *a))[1]
    )
    store = pack(files, tmp_path / "s", progress=False)
    assert read == files[2:]
    equal(load_dataset(store), load_dataset(files))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.npz", "1.npz", "2.npz", "s"]


def test_two_processes_do_not_pack_one_store(tmp_path):
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from anipot.data.pack import _workplace\n"
        "with _workplace(Path(sys.argv[1])):\n"
        "    print('in', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        began = time.monotonic()
        with pytest.raises(SettingsError, match="another process"):
            pack([bundled_path()], tmp_path / "s", progress=False)
        assert time.monotonic() - began < 10
        other.kill()


# ---- views ---------------------------------------------------------------------------------------


@pytest.fixture
def views(monkeypatch):
    """Even a few conformers of a store are taken as a view."""
    monkeypatch.setattr(views_module, "VIEW_FROM", 10)


def test_a_view_is_what_a_copy_would_be(tmp_path, views, monkeypatch):

    monkeypatch.setattr(views_module, "PIECE", 13)
    crystals(300, 5).save(tmp_path / "a.npz")
    store = load_dataset(pack([tmp_path / "a.npz"], tmp_path / "s", progress=False))
    data = load_dataset(tmp_path / "a.npz")
    index = np.random.default_rng(0).permutation(300)[:200]
    view, copy = store.take(index), data.take(index)
    assert isinstance(view, views_module.ConformersView)
    assert not isinstance(copy, views_module.ConformersView)
    assert view.content_hash() == copy.content_hash()
    assert repr(view) == repr(copy)
    assert view.describe(7) == copy.describe(7)
    np.testing.assert_array_equal(view.composition(["Si"]), copy.composition(["Si"]))
    for label in ("energies", "forces", "stress"):
        np.testing.assert_array_equal(view.has(label), copy.has(label))
    inner = np.arange(150, 20, -1)
    equal(view.take(inner).gather(slice(None)), copy.take(inner))
    equal(view.replaced(dropped=0), copy)
    for (a, part), (b, other) in zip(view.blocks(), copy.blocks(), strict=True):
        assert a == b
        equal(part, other)
    equal(view, copy)  # whole arrays, at last


def test_selections_and_splits_of_a_store_are_those_of_its_file(packed, views):
    store, data = load_dataset(packed), load_bundled()
    for kwargs in ({"heavy_atoms": 2}, {"elements": "HC"}, {"max_energy": 10.0}):
        assert store.select(**kwargs).content_hash() == data.select(**kwargs).content_hash()
    for by in ("conformer", "molecule", "formula"):
        mine = store.split(0.8, 0.1, 0.1, seed=3, by=by)
        theirs = data.split(0.8, 0.1, 0.1, seed=3, by=by)
        assert [p.content_hash() for p in mine] == [p.content_hash() for p in theirs]


# ---- while it is used ----------------------------------------------------------------------------


def write_at(file: Path, place: int, content: bytes) -> None:
    with file.open("r+b") as out:
        out.seek(place)
        out.write(content)


@pytest.mark.parametrize("streams", [False, True])
def test_a_store_that_changes_after_it_was_opened_is_refused(packed, streams, monkeypatch):
    monkeypatch.setattr("anipot.data.views.VIEW_FROM", 2 if streams else 1 << 16)
    data = open_store(packed)
    part = data.take(slice(0, 4))
    assert type(part).__name__ == ("ConformersView" if streams else "Conformers")
    loader = BatchLoader(part, 2, data.elements)
    batches = loader.epoch()
    next(batches)
    file = packed / "energies.npy"
    time = file.stat().st_mtime_ns
    write_at(file, file.stat().st_size - 8, np.array([1.0]).tobytes())
    os.utime(file, ns=(time, time + 1000))  # whatever the resolution of the file system's clock
    with pytest.raises(DataError, match=r"energies\.npy: was changed.*pack the store again"):
        data.gather(np.arange(2))
    with pytest.raises(DataError, match="was changed"):
        next(iter(BatchLoader(data, 2, data.elements).epoch()))
    if streams:
        with pytest.raises(DataError, match="was changed"):
            next(batches)
        with pytest.raises(DataError, match="was changed"):
            part.by_formula().take(np.arange(2))
    else:
        next(batches)  # a copy, of what was checked


def test_a_store_cut_short_while_it_is_used_does_not_kill_the_process(packed):
    data = open_store(packed)
    os.truncate(packed / "coordinates.npy", 128)
    with pytest.raises(DataError, match=r"coordinates\.npy: was changed"):
        data.take(np.arange(len(data)))
    with pytest.raises(DataError, match=r"coordinates\.npy"):
        next(iter(data.blocks()))
    other = open_store
    (packed / "coordinates.npy").unlink()
    with pytest.raises(DataError, match=r"coordinates\.npy"):
        other(packed)


def with_sum(path: Path, change) -> None:
    """Change what store.json says, with a sum that fits, as whoever wrote it could."""
    about = json.loads((path / "store.json").read_text())
    del about["sha256"]
    change(about)
    text = json.dumps({**about, "sha256": store_module._sum_of(about)})
    (path / "store.json").write_text(text)


@pytest.mark.parametrize("name", ["../secret", "/tmp/secret", "mask_../x", "notes"])
def test_only_the_arrays_of_a_data_set_are_opened(packed, name):
    np.save(packed.parent / "secret.npy", np.zeros(3))
    with_sum(packed, lambda about: about["arrays"].update({name: about["arrays"]["energies"]}))
    with pytest.raises(DataError, match=r"store\.json.*there is no array.*pack the store again"):
        open_store(packed)


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about.pop("arrays"),
        lambda about: about.update(conformers="3"),
        lambda about: about["arrays"]["energies"].pop("crc32"),
        lambda about: about["arrays"]["energies"].update(crc32=[]),
        lambda about: about["arrays"]["energies"].update(shape=[{}]),
        lambda about: about["arrays"].update(energies=5),
    ],
)
def test_a_description_that_is_none_is_refused(packed, change):
    with_sum(packed, change)
    with pytest.raises(DataError, match=r"store\.json: damaged.*pack the store again"):
        open_store(packed)


def test_other_values_of_a_field_leave_the_rest_on_the_disk(packed, views):
    store = load_dataset(packed)
    changed = store.replaced(energies=np.arange(len(store), dtype=float))
    assert changed.mapped
    assert changed.streams
    assert isinstance(changed.coordinates.base, np.memmap) or isinstance(
        changed.coordinates, np.memmap
    )
    np.testing.assert_array_equal(changed.take(np.arange(5)).energies, np.arange(5.0))
    assert changed.content_hash() != store.content_hash()
    with pytest.raises(DataError, match=r"use data\.replaced"):
        dataclasses.replace(store.take(np.arange(20)), dropped=1)
