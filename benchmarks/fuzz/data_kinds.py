"""Data files: HDF5, npz, the formats of ASE, stores, and lists of molecules."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ase
import ase.io
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from anipot.data.check import check_conformers
from anipot.data.conformers import Conformers
from anipot.data.describe import describe
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.data.published.bundled import read_molecule_list
from benchmarks.fuzz import examples
from benchmarks.fuzz.kinds import Kind, always, digest


def _frames(cell: bool = False, labels: bool = True) -> list[ase.Atoms]:
    frames = []
    for name, symbols, x, energies, forces in examples.conformers():
        for k in range(len(x)):
            atoms = ase.Atoms(symbols, x[k].round(6), info={"molecule": name})
            results: dict[str, Any] = {"energy": round(energies[k] * examples.EV, 6)}
            results["forces"] = forces[k].round(6)
            if cell:
                atoms.cell, atoms.pbc = np.diag([9.0, 10.0, 11.0]), True
                results["stress"] = np.array([0.01, 0.02, 0.03, 0.001, 0.002, 0.003])
            if labels:
                atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
    return frames


def _numbers(symbols: str) -> np.ndarray:
    return ase.Atoms(symbols).numbers


# ---- HDF5 ----------------------------------------------------------------------------------------


def _ani1(path: Path, **options: Any) -> None:
    """As the ANI-1 release, high-energy extras and SMILES included."""
    with h5py.File(path, "w", **options) as file:
        for name, symbols, x, energies, _ in examples.conformers():
            group = file.create_group(f"gdb11_s01/{name}")
            group["coordinates"], group["energies"] = x.astype("f4"), energies
            group["coordinatesHE"], group["energiesHE"] = x[:1].astype("f4"), energies[:1]
            group["species"] = np.array(list(symbols), "S1")
            group["smiles"] = np.array(list("CO"), "S1")


def _ani1x(path: Path) -> None:
    """As the ANI-1x release: by formula, NaN where a level of theory lacks a label."""
    with h5py.File(path, "w") as file:
        for _, symbols, x, energies, forces in examples.conformers():
            group = file.create_group(ase.Atoms(symbols).get_chemical_formula(mode="hill"))
            group["atomic_numbers"] = _numbers(symbols).astype("u1")
            group["coordinates"] = x.astype("f4")
            group["wb97x_dz.energy"], group["wb97x_dz.forces"] = energies, forces.astype("f4")
            group["ccsd(t)_cbs.energy"] = np.where(np.arange(len(x)) == 1, np.nan, energies)


def _comp6(path: Path) -> None:
    """As COMP6: gradients called forces, and marks that tell it."""
    with h5py.File(path, "w") as file:
        for name, symbols, x, energies, forces in examples.conformers():
            group = file.create_group(f"set/{name}")
            group["coordinates"], group["energies"], group["forces"] = x, energies, -forces
            group["cm5"], group["hirdipole"] = forces[..., 0], forces[:, 0]
            text = h5py.string_dtype()
            group.create_dataset("species", data=np.array(list(symbols), object), dtype=text)


def _declared(path: Path) -> None:
    """Units as attributes, cells, padded species: what other programs write."""
    with h5py.File(path, "w") as file:
        for name, symbols, x, energies, forces in examples.conformers():
            group = file.create_group(name)
            group["species"] = np.tile(_numbers(symbols), (len(x), 1))
            for key, value, unit in (
                ("coordinates", x / examples.BOHR, "bohr"),
                ("energies", energies, "hartree"),
                ("forces", forces * examples.BOHR, "hartree/bohr"),
            ):
                group[key] = value
                group[key].attrs["units"] = unit
            group["cell"] = np.tile(np.diag([9.0, 9.0, 9.0]) / examples.BOHR, (len(x), 1, 1))
            group["pbc"] = np.ones((len(x), 3), bool)
            group["charge"] = np.zeros(len(x))
        file.attrs["length_unit"] = "bohr"


def _summed(path: Path, libver: str | tuple[str, str] = "latest") -> None:
    """Every chunk with fletcher32; in files of the latest version all else has sums of its own."""
    with h5py.File(path, "w", libver=libver) as file:
        for name, symbols, x, energies, forces in examples.conformers(8):
            group = file.create_group(name)
            for key, value in (
                ("coordinates", x), ("energies", energies), ("forces", forces),
                ("species", np.array(list(symbols), "S1")),
            ):  # fmt: skip
                group.create_dataset(key, data=value, chunks=True, fletcher32=True)


def _chunks(files: Mapping[str, bytes]) -> dict[str, list[tuple[int, int]]]:
    """Where the chunks of HDF5 files lie."""
    import io

    places: dict[str, list[tuple[int, int]]] = {}
    for name, content in files.items():
        mine = places.setdefault(name, [])

        def look(_: str, item: Any, mine: list[tuple[int, int]] = mine) -> None:
            if isinstance(item, h5py.Dataset):
                for k in range(item.id.get_num_chunks()):
                    info = item.id.get_chunk_info(k)
                    mine.append((info.byte_offset, info.byte_offset + info.size))

        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(look)
    return places


# ---- npz -----------------------------------------------------------------------------------------


def _dataset(each: int = 3, complete: bool = False) -> Conformers:
    """A data set with everything that one can have; the energies are ``complete``, or one lacks."""
    parts = list(examples.conformers(each))
    n = [len(x) for _, _, x, _, _ in parts]
    sizes = np.concatenate([[len(s)] * m for (_, s, *_), m in zip(parts, n, strict=True)])
    m = sum(n)
    has = (np.arange(m) != 1) | complete
    return Conformers(
        np.concatenate([np.tile(_numbers(s), len(x)) for _, s, x, _, _ in parts]),
        np.concatenate([x.reshape(-1, 3) for _, _, x, _, _ in parts]),
        np.concatenate([[0], np.cumsum(sizes)]),
        energies=np.where(has, np.concatenate([e for *_, e, _ in parts]), np.nan),
        forces=np.concatenate([f.reshape(-1, 3) for *_, f in parts]),
        cells=np.tile(np.eye(3) * 9.0, (m, 1, 1)),
        pbc=np.ones((m, 3), bool),
        stress=np.tile(np.eye(3) * 1e-4, (m, 1, 1)),
        molecule=np.repeat(np.arange(len(n)), n).astype(np.int32),
        molecule_names=tuple(examples.MOLECULES),
        masks={} if complete else {"energies": has},
        level_of_theory="none",
        sources=("made.h5",),
    )


def _md17(path: Path) -> None:
    _, symbols, x, energies, forces = next(examples.conformers())
    np.savez(path, R=x, z=_numbers(symbols), E=energies[:, None] * 627.5, F=forces * 627.5,
             name=np.array("water"), theory=np.array("none"))  # fmt: skip


def _padded(path: Path) -> None:
    """Of several molecules, padded, compressed, with declared units."""
    parts = list(examples.conformers())
    widest = max(x.shape[1] for _, _, x, _, _ in parts)

    def padded(array: np.ndarray, axis: int) -> np.ndarray:
        width = [(0, 0)] * array.ndim
        width[axis] = (0, widest - array.shape[axis])
        return np.pad(array, width)

    species = [np.tile(padded(_numbers(s), 0), (len(x), 1)) for _, s, x, _, _ in parts]
    np.savez_compressed(
        path,
        coordinates=np.concatenate([padded(x, 1) for _, _, x, _, _ in parts]),
        species=np.concatenate(species),
        energies=np.concatenate([e for *_, e, _ in parts]),
        forces=np.concatenate([padded(f, 1) for *_, f in parts]),
        e_unit=np.array("hartree"),
        r_unit=np.array("angstrom"),
    )


# ---- formats of ASE and others -------------------------------------------------------------------


def _ase(
    frames: Callable[[], list[ase.Atoms]], format: str, **options: Any
) -> Callable[[Path], None]:
    return lambda path: ase.io.write(path, frames(), format=format, **options)


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _gzipped(path: Path) -> None:
    path.write_bytes(gzip.compress(examples.xyz("{name}").encode(), mtime=0))


def _as_long(files: Mapping[str, bytes]) -> dict[str, list[tuple[int, int]]]:
    """Changes that keep the length: two gzip files, one behind the other, are one, too."""
    return {name: [(0, len(content))] for name, content in files.items()}


def _database(path: Path) -> None:
    from ase.db import connect

    with connect(path) as base:
        for atoms in _frames():
            energy = atoms.get_potential_energy()
            atoms.calc = None
            base.write(atoms, dft_energy=energy, data={"forces": np.zeros((len(atoms), 3))})
            base.write(_frames()[0])
    with sqlite3.connect(path) as rows:  # what is another one each time
        rows.execute("UPDATE systems SET unique_id = printf('%032d', id), ctime = 0, mtime = 0")
    rows.close()


def _deepmd(path: Path) -> None:
    _, _symbols, x, energies, forces = next(examples.conformers())
    (path / "set.000").mkdir(parents=True)
    (path / "type_map.raw").write_text("O\nH\n")
    (path / "type.raw").write_text("0\n1\n1\n")
    n = len(x)
    for name, value in (
        ("coord", x), ("energy", energies * examples.EV), ("force", forces * examples.EV),
        ("box", np.tile(np.eye(3) * 9.0, (n, 1, 1))),
    ):  # fmt: skip
        np.save(path / "set.000" / f"{name}.npy", value.reshape(n, -1).astype("f4"))


def _store(path: Path) -> None:
    _dataset().save(path.parent / "made.npz")
    pack([path.parent / "made.npz"], path, progress=False)
    (path.parent / "made.npz").unlink()


# ---- readers -------------------------------------------------------------------------------------


def _reads(**options: Any) -> Callable[[Path], str]:
    """As ``anipot data info`` and ``anipot data check`` read it."""

    def read(path: Path) -> str:
        data = load_dataset(path, **options)
        found = digest(data)
        str(describe(data))
        for problem in check_conformers(data):
            str(problem)
        return found

    return read


_INFO = ("data info @", "data check @", "predict @potential @ --forces")


def _file(
    name: str,
    target: str,
    make: Callable[[Path], None],
    read: Callable[[Path], Any] | None = None,
    **more: Any,
) -> Kind:
    more.setdefault("commands", _INFO)
    return Kind(name, target, lambda folder: make(folder / target), read or _reads(), **more)


def kinds() -> list[Kind]:
    cells = lambda: _frames(cell=True)  # noqa: E731
    everything = _reads(keep_unlabelled=True)
    bare = lambda: _frames(labels=False)[3:4]  # noqa: E731
    found = [
        _file("ani1.h5", "fuzzed.h5", _ani1, _reads(high_energy=True), weight=2),
        _file("ani1x.h5", "fuzzed.h5", _ani1x, _reads(energy_key="wb97x_dz.energy"), weight=2),
        _file("comp6.hdf5", "fuzzed.hdf5", _comp6),
        _file("declared.h5", "fuzzed.h5", _declared, _reads(keep_unlabelled=True)),
        _file("fletcher32.h5", "fuzzed.h5", _summed, summed=always),
        _file(
            "fletcher32-chunks.h5", "fuzzed.h5", lambda path: _summed(path, ("earliest", "v108")),
            summed=always, covered=_chunks,
        ),
        _file("own.npz", "fuzzed.npz", lambda path: _dataset().save(path), summed=always, weight=2),
        _file("md17.npz", "fuzzed.npz", _md17, _reads(energy_unit="kcal/mol"), summed=always),
        _file("padded.npz", "fuzzed.npz", _padded, summed=always, weight=2),
        _file("extxyz", "fuzzed.extxyz", _ase(cells, "extxyz"), weight=3),
        _file("xyz", "fuzzed.xyz", _text(examples.xyz("charge=0 {name} {k}")), everything),
        _file("crest.xyz", "fuzzed.xyz", _text(examples.xyz("        {energy:.8f}"))),
        _file("cp2k.xyz", "fuzzed.xyz", _text(examples.xyz(" i = {k}, E = {energy:.10f}"))),
        _file("columns.xyz", "fuzzed.xyz", _text(examples.xyz("{energy:.8f}", columns=True))),
        _file("qm9.xyz", "fuzzed.xyz", _text(examples.QM9)),
        _file("xyz.gz", "fuzzed.xyz.gz", _gzipped, summed=always, covered=_as_long),
        _file("sdf", "fuzzed.sdf", _text(examples.sdf(2))),
        _file("mol", "fuzzed.mol", _text(examples.sdf(1))),
        _file("mol2", "fuzzed.mol2", _text(examples.MOL2)),
        _file("pdb", "fuzzed.pdb", _text(examples.pdb())),
        _file("cif", "fuzzed.cif", _text(examples.CIF)),
        _file("poscar", "POSCAR_fuzzed", _text(examples.POSCAR)),
        _file("traj", "fuzzed.traj", _ase(cells, "traj")),
        _file("ase.json", "fuzzed.json", _ase(bare, "json"), weight=0.5),
        _file("ase.db", "fuzzed.db", _database, _reads(keep_unlabelled=True), weight=0.5),
        _file("gaussian.log", "fuzzed.log", _text(examples.GAUSSIAN)),
        _file("gaussian.com", "fuzzed.com", _text(examples.GJF)),
        _file("deepmd", "fuzzed_deepmd", _deepmd),
        _file("store", "fuzzed_store", _store, summed=always, weight=2),
        Kind("molecule list", "fuzzed.txt",
             lambda folder: _text("# a list\nwater\nmethane # CH4\nC#N\n")(folder / "fuzzed.txt"),
             lambda path: read_molecule_list(path)),
    ]  # fmt: skip
    return found
