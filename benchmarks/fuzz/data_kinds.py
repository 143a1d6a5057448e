"""Data files: HDF5, npz, the formats of ASE, stores, and lists of molecules."""

from __future__ import annotations

import gzip
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ase
import ase.io
import h5py
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator

from anipot.conformers import Conformers
from anipot.datasets import describe
from anipot.datasets.bundled import read_molecule_list
from anipot.datasets.check import check_conformers
from anipot.datasets.load import load_dataset
from anipot.datasets.store_pack import pack
from benchmarks.fuzz.kinds import Kind, always, digest

_WATER = np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])
_METHANE = np.array([
    [0.0, 0.0, 0.0], [0.629, 0.629, 0.629], [-0.629, -0.629, 0.629], [-0.629, 0.629, -0.629],
    [0.629, -0.629, -0.629],
])  # fmt: skip
_MOLECULES = {"water": ("OHH", _WATER, -76.4), "methane": ("CHHHH", _METHANE, -40.5)}
_EV, _BOHR = 27.211386, 0.529177


def _conformers(n: int = 3) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, symbols, coordinates (n, a, 3), energies (n,) hartree, forces (n, a, 3) of molecules."""
    rng = np.random.default_rng(0)
    for name, (symbols, x, energy) in _MOLECULES.items():
        moved = x + rng.normal(scale=0.05, size=(n, *x.shape))
        yield (
            name, symbols, moved, energy + rng.normal(scale=0.01, size=n),
            rng.normal(scale=0.02, size=moved.shape),
        )  # fmt: skip


def _frames(cell: bool = False, labels: bool = True) -> list[ase.Atoms]:
    frames = []
    for name, symbols, x, energies, forces in _conformers():
        for k in range(len(x)):
            atoms = ase.Atoms(symbols, x[k].round(6), info={"molecule": name})
            results: dict[str, Any] = {"energy": round(energies[k] * _EV, 6)}
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
        for name, symbols, x, energies, _ in _conformers():
            group = file.create_group(f"gdb11_s01/{name}")
            group["coordinates"], group["energies"] = x.astype("f4"), energies
            group["coordinatesHE"], group["energiesHE"] = x[:1].astype("f4"), energies[:1]
            group["species"] = np.array(list(symbols), "S1")
            group["smiles"] = np.array(list("CO"), "S1")


def _ani1x(path: Path) -> None:
    """As the ANI-1x release: by formula, NaN where a level of theory lacks a label."""
    with h5py.File(path, "w") as file:
        for _, symbols, x, energies, forces in _conformers():
            group = file.create_group(ase.Atoms(symbols).get_chemical_formula(mode="hill"))
            group["atomic_numbers"] = _numbers(symbols).astype("u1")
            group["coordinates"] = x.astype("f4")
            group["wb97x_dz.energy"], group["wb97x_dz.forces"] = energies, forces.astype("f4")
            group["ccsd(t)_cbs.energy"] = np.where(np.arange(len(x)) == 1, np.nan, energies)


def _comp6(path: Path) -> None:
    """As COMP6: gradients called forces, and marks that tell it."""
    with h5py.File(path, "w") as file:
        for name, symbols, x, energies, forces in _conformers():
            group = file.create_group(f"set/{name}")
            group["coordinates"], group["energies"], group["forces"] = x, energies, -forces
            group["cm5"], group["hirdipole"] = forces[..., 0], forces[:, 0]
            text = h5py.string_dtype()
            group.create_dataset("species", data=np.array(list(symbols), object), dtype=text)


def _declared(path: Path) -> None:
    """Units as attributes, cells, padded species: what other programs write."""
    with h5py.File(path, "w") as file:
        for name, symbols, x, energies, forces in _conformers():
            group = file.create_group(name)
            group["species"] = np.tile(_numbers(symbols), (len(x), 1))
            for key, value, unit in (
                ("coordinates", x / _BOHR, "bohr"),
                ("energies", energies, "hartree"),
                ("forces", forces * _BOHR, "hartree/bohr"),
            ):
                group[key] = value
                group[key].attrs["units"] = unit
            group["cell"] = np.tile(np.diag([9.0, 9.0, 9.0]) / _BOHR, (len(x), 1, 1))
            group["pbc"] = np.ones((len(x), 3), bool)
            group["charge"] = np.zeros(len(x))
        file.attrs["length_unit"] = "bohr"


def _summed(path: Path, libver: str | tuple[str, str] = "latest") -> None:
    """Every chunk with fletcher32; in files of the latest version all else has sums of its own."""
    with h5py.File(path, "w", libver=libver) as file:
        for name, symbols, x, energies, forces in _conformers(8):
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
    parts = list(_conformers(each))
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
        molecule_names=tuple(_MOLECULES),
        masks={} if complete else {"energies": has},
        level_of_theory="none",
        sources=("made.h5",),
    )


def _md17(path: Path) -> None:
    _, symbols, x, energies, forces = next(_conformers())
    np.savez(path, R=x, z=_numbers(symbols), E=energies[:, None] * 627.5, F=forces * 627.5,
             name=np.array("water"), theory=np.array("none"))  # fmt: skip


def _padded(path: Path) -> None:
    """Of several molecules, padded, compressed, with declared units."""
    parts = list(_conformers())
    widest = max(x.shape[1] for _, _, x, _, _ in parts)
    pad = [(0, widest - x.shape[1]) for _, _, x, _, _ in parts]
    np.savez_compressed(
        path,
        coordinates=np.concatenate([np.pad(p[2], ((0, 0), w, (0, 0))) for p, w in zip(parts, pad, strict=True)]),
        species=np.concatenate([
            np.tile(np.pad(_numbers(p[1]), w), (len(p[2]), 1)) for p, w in zip(parts, pad, strict=True)
        ]),
        energies=np.concatenate([p[3] for p in parts]),
        forces=np.concatenate([np.pad(p[4], ((0, 0), w, (0, 0))) for p, w in zip(parts, pad, strict=True)]),
        e_unit=np.array("hartree"),
        r_unit=np.array("angstrom"),
    )  # fmt: skip


# ---- formats of ASE and others -------------------------------------------------------------------


def _ase(frames: Callable[[], list[ase.Atoms]], format: str, **options: Any) -> Callable[[Path], None]:
    return lambda path: ase.io.write(path, frames(), format=format, **options)


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(text, encoding="utf-8")


def _xyz(comment: str, columns: bool = False) -> str:
    lines = []
    for name, symbols, x, energies, forces in _conformers():
        for k in range(len(x)):
            lines += [str(len(symbols)), comment.format(energy=energies[k], name=name, k=k)]
            for s, p, f in zip(symbols, x[k], forces[k], strict=True):
                more = "".join(f"{v:12.6f}" for v in f) if columns else ""
                lines.append(f"{s:<2}" + "".join(f"{v:12.6f}" for v in p) + more)
    return "\n".join(lines) + "\n"


def _sdf(records: int) -> str:
    blocks = []
    for k in range(records):
        atoms = "".join(
            f"{x:10.4f}{y:10.4f}{z:10.4f} {s:<3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
            for s, (x, y, z) in zip("CHHHH", _METHANE + 0.01 * k, strict=True)
        )
        bonds = "".join(f"  1{n:3d}  1  0\n" for n in range(2, 6))
        blocks.append(
            f"methane\n  made\n\n  5  4  0  0  0  0  0  0  0  0999 V2000\n{atoms}{bonds}M  END\n"
            + (f"> <energy>\n-40.5\n\n> <name>\nmethane {k}\n\n$$$$\n" if records > 1 else "")
        )
    return "".join(blocks)


def _pdb() -> str:
    lines = ["CRYST1   12.000   12.000   12.000  90.00  90.00  90.00 P 1           1"]
    for model in (1, 2):
        lines.append(f"MODEL     {model:4d}")
        for k, (s, p) in enumerate(zip("CHHHH", _METHANE, strict=True), start=1):
            x, y, z = p
            lines.append(
                f"HETATM{k:5d}  {s + str(k):<4}MOL A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"  1.00  0.00          {s:>2}"
            )
        lines += ["CONECT    1    2    3    4    5", "ENDMDL"]
    return "\n".join([*lines, "END", ""])


_CIF = """data_made
_cell_length_a 5.64
_cell_length_b 5.64
_cell_length_c 5.64
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
C1 C 0.0 0.0 0.0 1.0
H1 H 0.1115 0.1115 0.1115 1.0
H2 H -0.1115 -0.1115(3) 0.1115 1.0
H3 H -0.1115 0.1115 -0.1115 1.0
H4 H 0.1115 -0.1115 -0.1115 1.0
"""

_POSCAR = """methane
1.0
  8.0 0.0 0.0
  0.0 8.0 0.0
  0.0 0.0 8.0
C H
1 4
Selective dynamics
Cartesian
4.000 4.000 4.000 F F F
4.629 4.629 4.629 T T T
3.371 3.371 4.629 T T T
3.371 4.629 3.371 T T T
4.629 3.371 3.371 T T T
"""

_MOL2 = """@<TRIPOS>MOLECULE
methane
 5 4 1 0 0
SMALL
NO_CHARGES

@<TRIPOS>ATOM
      1 C1     0.0000    0.0000    0.0000 C.3     1  MOL  0.0000
      2 H1     0.6290    0.6290    0.6290 H       1  MOL  0.0000
      3 H2    -0.6290   -0.6290    0.6290 H       1  MOL  0.0000
      4 H3    -0.6290    0.6290   -0.6290 H       1  MOL  0.0000
      5 H4     0.6290   -0.6290   -0.6290 H       1  MOL  0.0000
@<TRIPOS>BOND
     1     1     2 1
     2     1     3 1
     3     1     4 1
     4     1     5 1
"""

_QM9 = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.5*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""

_GAUSSIAN = """ Entering Gaussian System, Link 0=g16
 Gaussian 16:  ES64L-G16RevC.01  3-Jul-2019
 ----------------------
 # wB97X/6-31G(d) force
 ----------------------
 ---
 methane
 ---
 Symbolic Z-matrix:
 Charge =  0 Multiplicity = 1
                          Input orientation:
 ---------------------------------------------------------------------
 Center     Atomic      Atomic             Coordinates (Angstroms)
 Number     Number       Type             X           Y           Z
 ---------------------------------------------------------------------
      1          6           0        0.000000    0.000000    0.000000
      2          1           0        0.629000    0.629000    0.629000
      3          1           0       -0.629000   -0.629000    0.629000
      4          1           0       -0.629000    0.629000   -0.629000
      5          1           0        0.629000   -0.629000   -0.629000
 ---------------------------------------------------------------------
 SCF Done:  E(RwB97X) =  -40.4999421200     A.U. after    8 cycles
 -------------------------------------------------------------------
 Center     Atomic                   Forces (Hartrees/Bohr)
 Number     Number              X              Y              Z
 -------------------------------------------------------------------
      1        6           0.000000000    0.000000000    0.000000000
      2        1           0.001000000    0.001000000    0.001000000
      3        1          -0.001000000   -0.001000000    0.001000000
      4        1          -0.001000000    0.001000000   -0.001000000
      5        1           0.001000000   -0.001000000   -0.001000000
 -------------------------------------------------------------------
 Normal termination of Gaussian 16 at Mon Jan  1 00:00:00 2024.
"""

_GJF = """%chk=made.chk
# wB97X/6-31G(d) force

methane

0 1
C 0.000 0.000 0.000
H 0.629 0.629 0.629
H -0.629 -0.629 0.629
H -0.629 0.629 -0.629
H 0.629 -0.629 -0.629

"""


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
    _, symbols, x, energies, forces = next(_conformers())
    (path / "set.000").mkdir(parents=True)
    (path / "type_map.raw").write_text("O\nH\n")
    (path / "type.raw").write_text("0\n1\n1\n")
    n = len(x)
    for name, value in (
        ("coord", x), ("energy", energies * _EV), ("force", forces * _EV),
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


_INFO = ("data info @", "data check @")


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
        _file("xyz", "fuzzed.xyz", _text(_xyz("charge=0 {name} {k}")), _reads(keep_unlabelled=True)),
        _file("crest.xyz", "fuzzed.xyz", _text(_xyz("        {energy:.8f}"))),
        _file("cp2k.xyz", "fuzzed.xyz", _text(_xyz(" i = {k}, time = 0.5, E = {energy:.10f}"))),
        _file("columns.xyz", "fuzzed.xyz", _text(_xyz("{energy:.8f}", columns=True))),
        _file("qm9.xyz", "fuzzed.xyz", _text(_QM9)),
        _file("xyz.gz", "fuzzed.xyz.gz",
              lambda path: path.write_bytes(gzip.compress(_xyz("{name}").encode(), mtime=0)),
              summed=always),
        _file("sdf", "fuzzed.sdf", _text(_sdf(2))),
        _file("mol", "fuzzed.mol", _text(_sdf(1))),
        _file("mol2", "fuzzed.mol2", _text(_MOL2)),
        _file("pdb", "fuzzed.pdb", _text(_pdb())),
        _file("cif", "fuzzed.cif", _text(_CIF)),
        _file("poscar", "POSCAR_fuzzed", _text(_POSCAR)),
        _file("traj", "fuzzed.traj", _ase(cells, "traj")),
        _file("ase.json", "fuzzed.json", _ase(bare, "json"), weight=0.5),
        _file("ase.db", "fuzzed.db", _database, _reads(keep_unlabelled=True), weight=0.5),
        _file("gaussian.log", "fuzzed.log", _text(_GAUSSIAN)),
        _file("gaussian.com", "fuzzed.com", _text(_GJF)),
        _file("deepmd", "fuzzed_deepmd", _deepmd),
        _file("store", "fuzzed_store", _store, summed=always, weight=2),
        Kind("molecule list", "fuzzed.txt",
             lambda folder: _text("# a list\nwater\nmethane # CH4\nC#N\n")(folder / "fuzzed.txt"),
             lambda path: read_molecule_list(path)),
    ]  # fmt: skip
    return found
