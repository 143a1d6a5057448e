"""HDF5 files that lead elsewhere, claim too much, or hold what is no number."""

import h5py
import numpy as np
import pytest
from test_hdf5_meaning import write

from anipot.data.load import load_dataset
from anipot.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.h5"


def test_links_to_another_file_are_not_followed(path, tmp_path):
    other = tmp_path / "other.h5"
    write(other)
    write(path, name="w")
    with h5py.File(path, "a") as file:
        file["secret"] = h5py.ExternalLink("other.h5", "/w")
    with pytest.raises(DataError, match="'secret' leads to another file"):
        load_dataset(path)
    with h5py.File(path, "a") as file:
        del file["secret"]
        del file["w/energies"]
        file["w/energies"] = h5py.ExternalLink("other.h5", "/w/energies")
    with pytest.raises(DataError, match="group '/w': 'energies' leads to another file"):
        load_dataset(path)


def test_external_storage_and_virtual_datasets_are_not_followed(path, tmp_path):
    write(path, energies=None)
    raw = tmp_path / "raw.bin"
    raw.write_bytes(np.zeros(4).tobytes())
    with h5py.File(path, "a") as file:
        file["w"].create_dataset("energies", (4,), "f8", external=[(str(raw), 0, 32)])
    with pytest.raises(DataError, match="'energies' leads to another file"):
        load_dataset(path)
    other = tmp_path / "other.h5"
    write(other)
    with h5py.File(path, "a") as file:
        del file["w/energies"]
        layout = h5py.VirtualLayout((4,), "f8")
        layout[:] = h5py.VirtualSource(str(other), "w/energies", (4,))
        file["w"].create_virtual_dataset("energies", layout)
    with pytest.raises(DataError, match="'energies' leads to another file"):
        load_dataset(path)


def test_links_inside_the_file(path):
    write(path, name="w")
    with h5py.File(path, "a") as file:
        file["v/coordinates"] = file["w/coordinates"]
        file["v/species"] = h5py.SoftLink("/w/species")
        file["v/energies"] = h5py.SoftLink("/w/energies")
        file["v/round"] = h5py.SoftLink("/v")
    assert len(load_dataset(path)) == 8
    with h5py.File(path, "a") as file:
        file["v/notes"] = h5py.SoftLink("/nowhere")
    assert load_dataset(path).not_read == ("notes",)
    with h5py.File(path, "a") as file:
        del file["v/energies"]
        file["v/energies"] = h5py.SoftLink("/nowhere")
    with pytest.raises(DataError, match="group '/v': 'energies' cannot be opened"):
        load_dataset(path)


def test_nested_deeply(path):
    write(path, name="/".join(["d"] * 300))
    assert len(load_dataset(path)) == 4


@pytest.mark.parametrize("key", ["coordinates", "species", "energies", "cell", "charge"])
def test_a_declared_size_is_compared_with_what_is_stored(path, key):
    write(path, **{key: None})
    shapes = {"coordinates": (10**12, 3, 3), "species": (4, 10**12), "energies": (10**12,),
              "cell": (10**12, 3, 3), "charge": (10**12,)}  # fmt: skip
    with h5py.File(path, "a") as file:
        file["w"].create_dataset(key, shapes[key], "f8", chunks=True, compression="gzip")
    with pytest.raises(DataError, match=rf"'{key}' (declares the shape|.* has)"):
        load_dataset(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("coordinates", np.array(1.0), "not .conformers, atoms, 3"),
        ("coordinates", h5py.Empty("f8"), "without values"),
        ("coordinates", np.zeros((4, 3, 3), dtype=complex), "no real numbers"),
        ("coordinates", np.zeros((4, 3, 3), dtype=[("x", "f8")]), "no real numbers"),
        ("forces", np.zeros((4, 3, 3), dtype="S3"), "'forces' holds no real numbers"),
        ("energies", np.array(1.0), "'energies' has shape"),
        ("energies", np.zeros(4, dtype=bool), "type bool"),
        ("species", np.array([b"\xc3", b"H", b"H"]), "not the symbol"),
        ("species", np.array(b"OHH"), "'species' has"),
        ("species", np.array([8, 1, 1], dtype=[("z", "i4")]), "neither symbols nor"),
        ("charge", np.array([b"none"] * 4), "something else than numbers"),
    ],
)
def test_types_and_shapes_that_hold_no_data(path, key, value, message):
    write(path, **{key: value})
    with pytest.raises(DataError, match=rf"data.h5, group '/w'.*{message}"):
        load_dataset(path)


def test_ragged_species_and_references(path):
    write(path, species=None)
    with h5py.File(path, "a") as file:
        ragged = file["w"].create_dataset("species", (3,), h5py.vlen_dtype("i4"))
        ragged[0] = [1, 2]
    with pytest.raises(DataError, match="'species' holds lists or references"):
        load_dataset(path)
    with h5py.File(path, "a") as file:
        del file["w/species"]
        file["w"].create_dataset("species", (3,), h5py.ref_dtype)
    with pytest.raises(DataError, match="'species' holds lists or references"):
        load_dataset(path)


@pytest.mark.parametrize(
    "species",
    [
        np.array([8, 1, 1], dtype=">i8"),
        np.array([8.0, 1, 1], dtype="f4"),
        np.array([[8], [1], [1]]),
        np.array([b"8", b"1", b"1"]),
        np.array([b"O\0\0", b"H ", b"H"], dtype="S3"),
        np.tile([b"O", b"H", b"H"], (4, 1)),
    ],
)
def test_species_of_every_kind(path, species):
    write(path, species=species)
    assert load_dataset(path).atomic_numbers.tolist() == [8, 1, 1] * 4


def test_a_wrong_checksum_names_the_group(path):
    write(path, coordinates=None)
    with h5py.File(path, "a") as file:
        x = np.random.default_rng(0).normal(size=(4, 3, 3))
        data = file["w"].create_dataset("coordinates", data=x, chunks=x.shape, fletcher32=True)
        place = data.id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[place + 20] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.h5.*damaged.*group '/w'"):
        load_dataset(path)


def test_deepmd_in_hdf5_names_the_way(path):
    with h5py.File(path, "w") as file:
        file["type.raw"] = [0, 1]
        file["set.000/coord.npy"] = np.zeros((1, 6))
    with pytest.raises(DataError, match="DeePMD's HDF5; convert it with dpdata"):
        load_dataset(path)


def test_a_filter_that_is_not_installed(path):
    write(path, energies=None)
    with h5py.File(path, "a") as file:
        data = file["w"].create_dataset(
            "energies", (4,), "f8", chunks=(4,), compression=32099, allow_unknown_filter=True
        )
        data.id.write_direct_chunk((0,), b"packed")
    with pytest.raises(DataError, match=r"filter that is not installed .*h5repack"):
        load_dataset(path)


def test_species_and_labels_may_not_be_groups(path):
    for key in ("species", "coordinates", "cell", "coordinatesHE"):
        write(path, **{key: None})
        with h5py.File(path, "a") as file:
            file.require_group(f"w/{key}")["x"] = 1
        if key == "cell":  # a group of that name is no cell
            assert load_dataset(path).not_read == ("x",)
            continue
        with pytest.raises(DataError, match=f"group '/w': '{key}' is a group, not a dataset"):
            load_dataset(path)
