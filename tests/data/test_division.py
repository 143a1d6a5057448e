"""Divisions of a run: disjoint, complete, as asked for, and the same when made again."""

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import random_conformers

from anipot.config import DataSettings
from anipot.data.conformers import Conformers
from anipot.data.division import Division, divide, read_data, select
from anipot.data.provenance import divide_again, provenance
from anipot.data.published.bundled import (
    TEST_MOLECULES,
    VALIDATION_MOLECULES,
    bundled_path,
    load_bundled,
    read_molecule_list,
)
from anipot.errors import DataError, SettingsError

ISOMERS = ["CO", "N", "O", "C", "CCO", "COC", "CC", "C=O", "C=C", "CN", "CNC", "NC=O", "CC=O", "NO"]


@pytest.fixture(scope="module")
def data() -> Conformers:
    """Some small molecules of the bundled data; ethanol and dimethyl ether are isomers."""
    names = [n.rsplit("/", 1)[-1] for n in load_bundled().molecule_names]
    return load_bundled().select(molecules=[n for n in ISOMERS if n in names], per_molecule=20)


def by_formula_file(data: Conformers) -> Conformers:
    """As a file of the ANI-1x layout would be read: groups are formulas."""
    return data.by_formula()


def names(data: Conformers, index: np.ndarray) -> set[str]:
    return {data.molecule_names[m] for m in data.molecule[index]}


def check(division: Division, data: Conformers, complete: bool = True) -> None:
    together = np.concatenate(list(division))
    assert len(np.unique(together)) == len(together)
    if complete:
        assert np.array_equal(np.sort(together), np.arange(len(data)))


def write_list(path: Path, *molecules: str) -> str:
    path.write_text("".join(f"{m}\n" for m in molecules))
    return str(path)


SETTINGS = {
    "conformer": DataSettings(files=["x"], seed=3),
    "conformer, some unused": DataSettings(files=["x"], train=0.3, validation=0.2, test=0.1),
    "no test": DataSettings(files=["x"], train=0.9, validation=0.1, test=0),
    "molecule": DataSettings(files=["x"], split="molecule", train=0.6, validation=0.2, test=0.2),
    "molecule, some unused": DataSettings(
        files=["x"], split="molecule", train=0.3, validation=0.2, test=0.2, seed=1
    ),
    "formula": DataSettings(files=["x"], split="formula", train=0.6, validation=0.2, test=0.2),
}


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("grouped", ["molecule", "formula"])
def test_every_kind_is_disjoint_and_comes_out_the_same_again(kind, grouped, data, tmp_path):
    if grouped == "formula":
        data = by_formula_file(data)
    settings = SETTINGS[kind]
    division = divide(data, settings)
    check(division, data, "unused" not in kind)
    assert all(np.all(np.diff(part) > 0) for part in division if len(part))
    # Read back from the run's folder.
    division.save(tmp_path / "split.npz")
    loaded = Division.load(tmp_path / "split.npz")
    # Told by a potential, which keeps it as JSON.
    known = json.loads(json.dumps(provenance(data, division, settings)))
    for other in (loaded, divide_again(data, known), divide(data, settings)):
        assert all(np.array_equal(a, b) for a, b in zip(division, other, strict=True))
        assert (other.by, other.seed, other.data_hash) == (
            division.by, division.seed, division.data_hash,
        )  # fmt: skip
    parts = division.take(data)
    assert [len(p) for p in parts] == [known["split"][n] for n in ("train", "validation", "test")]
    assert np.array_equal(parts[1].energies, data.energies[division.validation])


@pytest.mark.parametrize("kind", ["conformer", "conformer, some unused", "no test"])
def test_fractions_are_those_asked_for(kind, data):
    settings = SETTINGS[kind]
    division = divide(data, settings)
    for part, fraction in zip(
        division, (settings.train, settings.validation, settings.test), strict=True
    ):
        assert abs(len(part) - fraction * len(data)) <= 1


def test_by_molecule_and_by_formula_keep_theirs_together(data):
    division = divide(data, SETTINGS["molecule"])
    sets = [names(data, part) for part in division]
    assert sum(map(len, sets)) == len(set.union(*sets))
    assert division.by == "molecule"
    for source in (data, by_formula_file(data)):
        division = divide(source, SETTINGS["formula"])
        formulas = [set(data.formulas()[0][part].tolist()) for part in division]
        assert sum(map(len, formulas)) == len(set.union(*formulas))
        assert division.by == "formula"
    # A file that knows only formulas is split by them, and that is what is reported.
    division = divide(by_formula_file(data), SETTINGS["molecule"])
    assert division.by == "formula"
    assert division.describe().startswith("split by formula (seed 0): ")


def test_another_seed_is_another_division(data):
    a = divide(data, DataSettings(files=["x"], seed=0))
    b = divide(data, DataSettings(files=["x"], seed=1))
    assert not np.array_equal(a.test, b.test)


# ---- lists -------------------------------------------------------------------------------------


def test_lists_of_molecules(data, tmp_path):
    test = write_list(tmp_path / "t.txt", "CO", "gdb_s02/CC")
    validation = write_list(tmp_path / "v.txt", "C=C")
    settings = DataSettings(
        files=["x"], split="molecule", test_molecules=test, validation_molecules=validation
    )
    division = divide(data, settings)
    check(division, data)
    assert names(data, division.test) == {"gdb_s02/CO", "gdb_s02/CC"}
    assert names(data, division.validation) == {"gdb_s02/C=C"}
    known = json.loads(json.dumps(provenance(data, division, settings)))
    (tmp_path / "t.txt").unlink()  # a potential is evaluated where the lists are not
    (tmp_path / "v.txt").unlink()
    again = divide_again(data, known)
    assert all(np.array_equal(a, b) for a, b in zip(division, again, strict=True))
    assert str(tmp_path) not in json.dumps(known)


def test_one_list_and_the_rest_at_random(data, tmp_path):
    test = write_list(tmp_path / "t.txt", "CO", "CC")
    settings = DataSettings(
        files=["x"], split="molecule", test_molecules=test, train=0.5, validation=0.5
    )
    division = divide(data, settings)
    check(division, data)
    assert names(data, division.test) == {"gdb_s02/CO", "gdb_s02/CC"}
    assert abs(len(division.train) - len(division.validation)) <= 40  # within two molecules
    assert not names(data, division.train) & names(data, division.validation)


def test_a_list_by_formula_holds_out_every_isomer(data, tmp_path):
    formulas, all_names = data.formulas()
    test = write_list(tmp_path / "t.txt", "C2H6O")
    for source in (data, by_formula_file(data)):
        for split in ("formula", "molecule") if source is not data else ("formula",):
            settings = DataSettings(files=["x"], split=split, test_molecules=test)
            division = divide(source, settings)
            check(division, source)
            held_out = {all_names[f] for f in formulas[division.test]}
            assert held_out == {"C2H6O"}
            assert "C2H6O" not in {all_names[f] for f in formulas[division.train]}
            again = divide_again(source, provenance(source, division, settings))
            assert np.array_equal(again.train, division.train)


def test_lists_that_cannot_be_followed(data, tmp_path):
    def lists(**given: str) -> DataSettings:
        return DataSettings(files=["x"], split="molecule", **given)

    ethane = write_list(tmp_path / "a.txt", "CC")
    with pytest.raises(SettingsError, match="lists of molecules need split=molecule"):
        divide(data, DataSettings(files=["x"], test_molecules=ethane))
    with pytest.raises(DataError, match="listed for validation and for the test"):
        divide(data, lists(test_molecules=ethane, validation_molecules=ethane))
    with pytest.raises(DataError, match=r"'CXC' is not in the data"):
        divide(data, lists(test_molecules=write_list(tmp_path / "b.txt", "CXC")))
    with pytest.raises(DataError, match=r"none\.txt"):
        divide(data, lists(test_molecules=str(tmp_path / "none.txt")))
    everything = write_list(tmp_path / "c.txt", *data.molecule_names[:0], *names(data, slice(None)))
    with pytest.raises(DataError, match="nothing is left to train on"):
        divide(data, lists(test_molecules=everything))
    small = data.select(molecules=["CO", "C", "O", "N"])  # names stay, conformers went
    with pytest.raises(DataError, match=r"a\.txt: no conformer of gdb_s02/CC is left after the"):
        divide(small, lists(test_molecules=ethane))


def test_the_bundled_data_has_lists_of_its_own():
    data = load_bundled()
    division = divide(data, DataSettings(split="molecule"))
    check(division, data)
    for part, file in (
        (division.test, TEST_MOLECULES),
        (division.validation, VALIDATION_MOLECULES),
    ):
        assert names(data, part) == set(read_molecule_list(bundled_path(file)))
    # Not by conformer, and not for other files.
    assert len(names(data, divide(data, DataSettings()).test)) > 50
    other = divide(data, DataSettings(files=["x"], split="molecule"))
    assert names(data, other.test) != names(data, division.test)


def test_the_division_says_how_it_came_about(data, tmp_path):
    lists = {
        "validation_molecules": write_list(tmp_path / "v.txt", "C=C"),
        "test_molecules": write_list(tmp_path / "t.txt", "CO"),
    }
    test = {"test_molecules": lists["test_molecules"]}
    for given, how in (
        ({}, "by molecule (seed 3)"),
        (test, "by molecule (test listed, the rest with seed 3)"),
        (lists, "by molecule (listed)"),
        ({"folds": 4, "fold": 2}, "by molecule (fold 2 of 4, seed 3)"),
    ):
        settings = DataSettings(files=["x"], split="molecule", seed=3, **given)
        division = divide(data, settings)
        assert division.describe().startswith(f"split {how}: ")
        division.save(tmp_path / "split.npz")
        assert Division.load(tmp_path / "split.npz").describe() == division.describe()
        known = json.loads(json.dumps(provenance(data, division, settings)))
        assert divide_again(data, known).describe() == division.describe()


def test_lists_that_a_selection_emptied(data, tmp_path, caplog):
    small = select(load_bundled(), DataSettings(heavy_atoms=2))
    division = divide(small, DataSettings(heavy_atoms=2, split="molecule"))
    left = set(small.molecule_names[m] for m in np.unique(small.molecule))
    for part, file in (
        (division.test, TEST_MOLECULES),
        (division.validation, VALIDATION_MOLECULES),
    ):
        listed = set(read_molecule_list(bundled_path(file)))
        assert names(small, part) == listed & left
        for name in listed - left:
            assert name in caplog.text
    assert "the test part is smaller than its list" in caplog.text
    own = write_list(tmp_path / "t.txt", "CO", "CCCC")
    settings = DataSettings(heavy_atoms=2, split="molecule", test_molecules=own)
    with pytest.raises(DataError, match=r"t\.txt: no conformer of \S*CCCC is left"):
        divide(small, settings)


def test_fractions_that_would_change_nothing(data, tmp_path):
    lists = {
        "validation_molecules": write_list(tmp_path / "v.txt", "C=C"),
        "test_molecules": write_list(tmp_path / "t.txt", "CO"),
    }
    by_molecule = {"files": ["x"], "split": "molecule"}
    for given, said in (
        ({**by_molecule, **lists, "train": 0.3}, "train=0.3 would change nothing: valid.*leave"),
        ({**by_molecule, **lists, "test": 0.2}, "test=0.2 would change nothing"),
        (
            {**by_molecule, "test_molecules": lists["test_molecules"], "test": 0.2},
            "test=0.2 would change nothing: test_molecules decide",
        ),
        ({"split": "molecule", "train": 0.3}, "lists that come with it.*name its file"),
        ({"files": ["x"], "folds": 5, "test": 0.3, "train": 0.7}, "train=0.7, test=0.3 would"),
    ):
        with pytest.raises(SettingsError, match=said):
            divide(data, DataSettings(**given))


# ---- folds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["conformer", "molecule", "formula"])
def test_every_conformer_is_tested_in_one_fold(by, data):
    tested = []
    for fold in range(1, 5):
        settings = DataSettings(files=["x"], split=by, folds=4, fold=fold, validation=0.2, seed=1)
        division = divide(data, settings)
        check(division, data)
        tested.append(division.test)
        rest = len(division.train) + len(division.validation)
        # Within one conformer, or half of the largest group that stays together.
        assert abs(len(division.validation) - 0.2 * rest) <= (1 if by == "conformer" else 20)
        if by != "conformer":
            group = data.groups(by)
            sides = [set(group[part].tolist()) for part in division]
            assert sum(map(len, sides)) == len(set.union(*sides))
        known = json.loads(json.dumps(provenance(data, division, settings)))
        assert (known["split"]["fold"], known["options"]["fold"]) == ([fold, 4], fold)
        again = divide_again(data, known)
        assert all(np.array_equal(a, b) for a, b in zip(division, again, strict=True))
    assert np.array_equal(np.sort(np.concatenate(tested)), np.arange(len(data)))


def test_folds_of_the_bundled_data_leave_its_lists(data, tmp_path):
    division = divide(load_bundled(), DataSettings(split="molecule", folds=5))
    assert "fold 1 of 5" in division.describe()
    assert abs(len(division.test) - len(load_bundled()) / 5) < 200
    own = write_list(tmp_path / "t.txt", "CO")
    with pytest.raises(SettingsError, match="leave out folds, or validation_molecules"):
        divide(data, DataSettings(split="molecule", folds=5, test_molecules=own))
    with pytest.raises(SettingsError, match="cannot make 500 folds"):
        divide(data, DataSettings(files=["x"], folds=500))


# ---- what cannot be divided --------------------------------------------------------------------


def test_parts_that_cannot_be_made(data):
    with pytest.raises(SettingsError, match=r"more than 1: train=0.9, validation=0.1, test=0.1"):
        divide(data, DataSettings(files=["x"], train=0.9))
    with pytest.raises(DataError, match="too few"):
        divide(data.take([0, 1]), DataSettings(files=["x"]))
    with pytest.raises(DataError, match="too few"):
        divide(data.take([0]), DataSettings(files=["x"]))
    two = data.select(molecules=["CO", "CC"])
    with pytest.raises(DataError, match="cannot be split by molecule into 3 parts"):
        divide(two, DataSettings(files=["x"], split="molecule"))


def test_an_element_that_the_training_part_lacks(data, tmp_path):
    nitrogen = write_list(tmp_path / "n.txt", *(n for n in names(data, slice(None)) if "N" in n))
    with pytest.raises(DataError, match="no training conformer contains N"):
        divide(data, DataSettings(files=["x"], split="molecule", test_molecules=nitrogen))


def test_other_data_is_refused(data, tmp_path):
    settings = SETTINGS["conformer"]
    division = divide(data, settings)
    known = provenance(data, division, settings)
    moved = dataclasses.replace(data, energies=data.energies + 1e-9)
    for other in (moved, data.take(np.arange(len(data))[::-1]), data.take(slice(1, None))):
        with pytest.raises(DataError, match="not the data that the potential was trained on"):
            divide_again(other, known)
        with pytest.raises(DataError, match="not the data that the split was made of"):
            division.take(other)
    # The same conformers under other names: lists of molecules mean nothing there.
    by_molecule = divide(data, SETTINGS["molecule"])
    told = provenance(data, by_molecule, SETTINGS["molecule"])
    renamed = dataclasses.replace(
        data, molecule_names=tuple(f"m{i}" for i in range(len(data.molecule_names)))
    )
    with pytest.raises(DataError, match="does not come out as it was"):
        divide_again(renamed, told)


def test_parts_that_are_not_asked_for_are_not_read(tmp_path, data):
    division = divide(data, SETTINGS["conformer"])
    division.save(tmp_path / "split.npz")
    loaded = Division.load(tmp_path / "split.npz", ["test"])
    np.testing.assert_array_equal(loaded.test, division.test)
    assert [len(part) for part in loaded][:2] == [0, 0]
    assert loaded.describe().split(":")[0] == division.describe().split(":")[0]
    assert loaded.data_hash == division.data_hash


def test_files_that_are_no_split(tmp_path, data):
    path = tmp_path / "split.npz"
    divide(data, SETTINGS["conformer"]).save(path)
    whole = path.read_bytes()
    np.savez(tmp_path / "other.npz", a=np.arange(3))
    (tmp_path / "pickle.npz").write_bytes(b"\x80\x04.")
    path.write_bytes(whole[: len(whole) // 2])
    for name in ("other.npz", "pickle.npz", "none.npz", "split.npz"):
        with pytest.raises(DataError, match=f"{name}: not the split of a run"):
            Division.load(tmp_path / name)


@pytest.mark.parametrize("part", [np.int64(3), np.zeros((2, 2), dtype=int), np.array([0.5])])
def test_a_part_that_is_no_list_of_conformers_is_refused(tmp_path, data, part):
    path = tmp_path / "split.npz"
    divide(data, SETTINGS["conformer"]).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "test": part})
    with pytest.raises(DataError, match=r"split\.npz: .*no list of conformers"):
        Division.load(path)


# ---- reading -----------------------------------------------------------------------------------


def test_reading_and_selecting_as_the_options_say(tmp_path):
    rng = np.random.default_rng(0)
    first = dataclasses.replace(random_conformers(rng, [3] * 4, "HC"), energies=np.arange(4.0))
    second = dataclasses.replace(random_conformers(rng, [4] * 3, "NO"), energies=np.arange(3.0))
    first.save(tmp_path / "1.npz")
    second.save(tmp_path / "2.npz")
    both = [str(tmp_path / "1.npz"), str(tmp_path / "2.npz")]
    assert len(read_data(DataSettings(files=both))) == 7
    assert len(read_data(DataSettings(files=both, elements="HC"))) == 4
    assert len(read_data(DataSettings(files=both, heavy_atoms=3))) == 4
    with pytest.raises(DataError, match=r"no file .*none\.h5"):
        read_data(DataSettings(files=[str(tmp_path / "none.h5")]))
    bundled = load_bundled()
    assert len(read_data(DataSettings())) == len(bundled)
    assert select(bundled, DataSettings()) is bundled
    few = select(bundled, DataSettings(per_molecule=2, heavy_atoms=2, seed=5))
    again = bundled.select(per_molecule=2, heavy_atoms=2, seed=5)
    assert few.content_hash() == again.content_hash()
    low = select(bundled, DataSettings(max_energy=5.0))
    assert 0 < len(low) < len(bundled)
    assert low.relative_energies().max() <= 5.0


def test_energies_in_another_unit_are_told(tmp_path, caplog):
    data = load_bundled().select(heavy_atoms=1, per_molecule=5)
    wrong = dataclasses.replace(data, energies=data.energies * 27.211386024367243)
    path = tmp_path / "ev.h5"
    with h5py.File(path, "w") as file:
        for name, part in (
            ("C", data.select(molecules=["C"])),
            ("O", data.select(molecules=["O"])),
        ):
            group = file.create_group(name)
            group["species"] = part.atomic_numbers[: part.offsets[1]]
            group["coordinates"] = part.coordinates.reshape(len(part), -1, 3)
            group["energies"] = part.energies * 27.211386024367243
    read_data(DataSettings(files=[str(path)]))
    assert "they look like eV; if so, give energy_unit='eV' (or --energy-unit eV)" in caplog.text
    assert all(record.levelname == "WARNING" for record in caplog.records)
    caplog.clear()
    right = read_data(DataSettings(files=[str(path)], energy_unit="eV"))
    assert right.energies.max() < 0
    # Who names a unit has decided: no second guess.
    read_data(DataSettings(files=[str(path)], energy_unit="hartree"))
    assert not caplog.text
    wrong.save(tmp_path / "saved.npz")
    read_data(DataSettings(files=[str(tmp_path / "saved.npz")]))
    assert "they look like eV" in caplog.text


def test_all_reading_options_reach_the_reader(tmp_path):
    path = tmp_path / "frames.extxyz"
    path.write_text(
        "2\nProperties=species:S:1:pos:R:3:forces:R:3 energy=-1.17 family=a\n"
        "H 0 0 0 0 0 1\nH 0 0 1.4 0 0 -1\n"
    )
    data = read_data(
        DataSettings(
            files=[str(path)], energy_unit="hartree", length_unit="bohr", forces_sign="gradient",
            group_key="family",
        )
    )  # fmt: skip
    assert data.molecule_names == ("a",)
    assert data.forces[0, 2] == pytest.approx(-1 / 0.52917721067)
    assert data.coordinates[1, 2] == pytest.approx(1.4 * 0.52917721067)
