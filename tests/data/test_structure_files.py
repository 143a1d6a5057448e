"""Structure files: all that they hold is read as it is meant, or refused with its place."""

import gzip

import ase
import ase.build
import ase.db
import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from anipot.data.load import load_dataset, read_file
from anipot.data.mapping import ReadOptions
from anipot.errors import DataError

WATER = [("O", 0.0, 0.0, 0.12), ("H", 0.0, 0.76, -0.47), ("H", 0.0, -0.76, -0.47)]


def molecule(atoms=WATER, title="w", tail="", bonds=(), dimension="3D", end="M  END\n") -> str:
    """A V2000 molecule. ``atoms`` may have a charge code as their last entry."""
    lines = [title, f"  program 0101012600{dimension}", ""]
    lines.append(f"{len(atoms):3d}{len(bonds):3d}  0  0  0  0  0  0  0  0999 V2000")
    for symbol, x, y, z, *code in atoms:
        lines.append(f"{x:10.4f}{y:10.4f}{z:10.4f} {symbol:<3} 0{(code or [0])[0]:3d}  0  0")
    lines += [f"{i:3d}{j:3d}  1  0" for i, j in bonds]
    return "\n".join(lines) + "\n" + tail + end


def v3000(atoms=WATER, counts="3 2", extra="") -> str:
    lines = ["w", "  program", "", "  0  0  0     0  0            999 V3000", "M  V30 BEGIN CTAB"]
    lines += [f"M  V30 COUNTS {counts} 0 0 0", "M  V30 BEGIN ATOM"]
    lines += [
        f"M  V30 {i} {a[0]} {a[1]} {a[2]} -\nM  V30 {a[3]} 0{extra if i == 1 else ''}"
        for i, a in enumerate(atoms, 1)
    ]
    lines += ["M  V30 END ATOM", "M  V30 BEGIN BOND", "M  V30 1 1 1 2", "M  V30 2 1 1 3"]
    return "\n".join([*lines, "M  V30 END BOND", "M  V30 END CTAB", "M  END", ""])


def atom(serial=1, name=" O  ", x=0.0, y=0.0, z=0.0, element="O", **more) -> str:
    """An atom of a PDB file."""
    residue, alternate = more.get("residue", "HOH"), more.get("alternate", " ")
    return (
        f"HETATM{serial:>5}{'' if len(str(serial)) > 5 else ' '}{name}{alternate}{residue:>3} A"
        f"{more.get('number', 1):4d}    {x:8.3f}{y:8.3f}{z:8.3f}{more.get('occupancy', 1):6.2f}"
        f"  0.00          {element:>2}{more.get('charge', '')}\n"
    )


PDB_WATER = atom() + atom(2, " H1 ", y=0.76, z=-0.59, element="H") + atom(
    3, " H2 ", y=-0.76, z=-0.59, element="H"
)  # fmt: skip


def mol2(charges=(-0.8, 0.4, 0.4), kind="USER_CHARGES", types=("O.3", "H", "H"), n=3) -> str:
    rows = "".join(
        f"{i} A{i} {a[1]} {a[2]} {a[3]} {t} 1 W {q}\n"
        for i, (a, t, q) in enumerate(zip(WATER, types, charges, strict=True), 1)
    )
    return (
        f"@<TRIPOS>MOLECULE\nw\n{n} 2\nSMALL\n{kind}\n\n@<TRIPOS>ATOM\n{rows}"
        "@<TRIPOS>BOND\n1 1 2 1\n2 1 3 1\n"
    )


def cif(sites="O1 O 0 0 0 1\nC1 C 0.2 0 0 1\n", more="", columns="occupancy", cell="6") -> str:
    lengths = "".join(f"_cell_length_{x} {cell}\n" for x in "abc") if cell else ""
    angles = "".join(f"_cell_angle_{x} 90\n" for x in ("alpha", "beta", "gamma")) if cell else ""
    names = "label type_symbol fract_x fract_y fract_z".split()  # noqa: SIM905
    loop = "".join(f"_atom_site_{name}\n" for name in [*names, columns])
    return f"data_x\n{lengths}{angles}{more}loop_\n{loop}{sites}"


def poscar(symbols="O H\n", counts="1 2", scale="1.0", rows=None, mode="Direct", tail="") -> str:
    rows = rows or ["0 0 0", "0.1 0 0", "0 0.1 0"]
    lattice = "8 0 0\n0 8 0\n0 0 8\n"
    return f"title\n{scale}\n{lattice}{symbols}{counts}\n{mode}\n" + "\n".join(rows) + "\n" + tail


def written(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def n_atoms(data):
    return np.diff(data.offsets).tolist()


# What is read.


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.sdf", molecule() + "$$$$\n" + molecule(WATER[:2]) + "$$$$\n\n", [3, 2]),
        ("a.sdf", molecule() + "$$$$\n" + v3000() + "$$$$\n", [3, 3]),
        ("a.mol", molecule(bonds=[(1, 2), (1, 3)]), [3]),
        ("a.mol", molecule().replace("\n", "\r\n"), [3]),
        ("a.sdf", b"\xef\xbb\xbf" + molecule(title="eau").encode(), [3]),
        ("a.sdf", molecule(title="caf\xe9").encode("latin-1"), [3]),
        ("unnamed", molecule(), [3]),
        ("a.mol", molecule(tail="M  CHG  2   1   1   2  -1\n"), [3]),
        ("a.mol2", mol2() + mol2(), [3, 3]),
        ("a.mol2", mol2(kind="NO_CHARGES", charges=(0, 0, 0)), [3]),
        ("a.pdb", f"MODEL        1\n{PDB_WATER}ENDMDL\nMODEL        2\n{PDB_WATER}ENDMDL\nEND\n",
         [3, 3]),
        ("a.pdb", PDB_WATER + "TER\nEND\n" + PDB_WATER + "END\n", [3, 3]),
        ("a.ent", PDB_WATER, [3]),
        ("a.pdb", atom("*****") + atom("A0000", " H1 ", x=1, element="H"), [2]),
        ("a.pdb", atom(charge="1-") + atom(2, " N  ", x=1.5, element="N", charge="1+"), [2]),
        ("a.cif", cif(), [2]),
        ("a.cif", "data_global\n_journal_year 2020\n" + cif() + cif().replace("data_x", "data_y"),
         [2, 2]),
        ("a.cif", cif(more="_chemical_formula_sum 'C O'\n_cell_formula_units_Z 1\n"), [2]),
        ("POSCAR", poscar(), [3]),
        ("POSCAR_2", poscar(symbols="").replace("title", "O H"), [3]),
        ("a.vasp", poscar(tail="\n0.1 0 0\n0 0 0\n0 0 0\n"), [3]),
    ],
)  # fmt: skip
def test_all_frames_are_read(tmp_path, name, text, expected):
    assert n_atoms(load_dataset(written(tmp_path, name, text))) == expected


def test_compressed_files(tmp_path):
    path = tmp_path / "a.sdf.gz"
    path.write_bytes(gzip.compress((molecule() + "$$$$\n" + molecule()).encode()))
    assert n_atoms(load_dataset(path)) == [3, 3]


def test_a_cell_that_stands_for_none(tmp_path, caplog):
    header = "CRYST1    1.000    1.000    1.000  90.00  90.00  90.00 P 1           1\n"
    data = load_dataset(written(tmp_path, "a.pdb", header + PDB_WATER))
    assert data.pbc is None
    assert "stands for none" in caplog.text
    real = header.replace("1.000 ", "9.000 ")
    data = load_dataset(written(tmp_path, "b.pdb", real + PDB_WATER))
    assert data.cells[0].diagonal() == pytest.approx([9, 9, 9])


def test_alternate_locations(tmp_path, caplog):
    text = atom() + "".join(
        atom(2 + k, " H1 ", y=0.7 + 0.1 * k, element="H", alternate="AB"[k], occupancy=o)
        for k, o in enumerate((0.3, 0.7))
    )
    data = load_dataset(written(tmp_path, "a.pdb", text))
    assert data.coordinates[:, 1].tolist() == [0.0, pytest.approx(0.8)]
    assert data.not_read == ("alternate locations",)
    assert "1 atoms at alternate locations left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "residue", "symbol"),
    [
        (" CA ", "ALA", "C"), ("CA  ", " CA", "Ca"), ("HG11", "VAL", "H"), ("1HB ", "ALA", "H"),
        ("C10 ", "LIG", "C"), ("Cl1 ", "LIG", "Cl"), (" OXT", "GLY", "O"), (" CL ", "LIG", "C"),
        ("CA  ", "LIG", None), ("FE  ", "HEM", None),
    ],
)  # fmt: skip
def test_elements_of_names(tmp_path, caplog, name, residue, symbol):
    path = written(tmp_path, "a.pdb", atom(name=name, residue=residue, element=""))
    if symbol is None:
        with pytest.raises(DataError, match=r"line 1: no element in columns 77-78"):
            load_dataset(path)
    else:
        assert ase.Atoms(load_dataset(path).atomic_numbers).get_chemical_symbols() == [symbol]
        assert f"{name.strip()} is {symbol}" in caplog.text


def test_data_fields_of_an_sdf(tmp_path):
    text = molecule() + "> <mmff_energy>\n-1.5\n\n>  3  <note>\nfine\n\n$$$$\n"
    path = written(tmp_path, "a.sdf", text)
    data = load_dataset(path)
    assert data.energies is None
    assert {"mmff_energy", "note"} <= set(data.not_read)
    read = load_dataset(path, energy_key="mmff_energy", energy_unit="hartree")
    assert read.energies.tolist() == [-1.5]


RADICALS = {
    "OH": molecule(WATER[:2], tail="M  RAD  1   1   2\n"),
    "O2": molecule([("O", 0, 0, 0), ("O", 0, 0, 1.2)], bonds=[(1, 2)],
                   tail="M  RAD  2   1   2   2   2\n"),
    "CH2": molecule([("C", 0, 0, 0), ("H", 0.9, 0, 0), ("H", -0.3, 0.9, 0)],
                    tail="M  RAD  1   1   3\n"),
    "two in one": molecule([*WATER[:2], ("O", 9, 0, 0), ("H", 9.9, 0, 0)], bonds=[(1, 2), (3, 4)],
                           tail="M  RAD  2   1   2   3   2\n"),
}  # fmt: skip
GUESSED = {
    "a double bond missed": molecule(bonds=[(1, 2), (1, 3)], tail="M  RAD  1   1   2\n"),
    "a bond missed": molecule(bonds=[(1, 2)], tail="M  RAD  2   1   2   3   2\n"),
    "by the charge column": molecule([(*WATER[0], 4), *WATER[1:]], bonds=[(1, 2), (1, 3)]),
    "V3000": v3000(extra=" RAD=2"),
}


@pytest.mark.parametrize("name", RADICALS)
def test_radicals_of_a_molfile_are_refused(tmp_path, name):
    with pytest.raises(DataError, match="has unpaired_electrons="):
        load_dataset(written(tmp_path, "a.mol", RADICALS[name]))


@pytest.mark.parametrize("name", GUESSED)
def test_marks_of_radicals_that_cannot_be_meant_are_left_out(tmp_path, caplog, name):
    text = GUESSED[name] + "$$$$\n"
    data = load_dataset(written(tmp_path, "a.sdf", text + text))
    assert len(data) == 2
    assert "marks of radicals" in data.not_read
    assert caplog.text.count("marked as radicals (M  RAD)") == 1


def test_energies_in_an_sdf_are_offered_by_their_key(tmp_path, caplog):
    text = molecule() + "> <DFT_Energy>\n-76.4\n\n> <ForceField>\nMMFF94\n\n$$$$\n"
    path = written(tmp_path, "a.sdf", text)
    assert load_dataset(path).energies is None
    assert "no energies read, but there is 'DFT_Energy': name it with energy_key=" in caplog.text
    assert "no forces read" not in caplog.text
    caplog.clear()
    load_dataset(path, energy_key="DFT_Energy", energy_unit="hartree")
    assert not caplog.text


def test_isotopes_are_their_elements_with_masses(tmp_path):
    heavy = [("D", *WATER[1][1:]) if a == WATER[1] else a for a in WATER]
    for name, text in (
        ("a.mol", molecule(heavy)),
        ("b.mol", molecule(tail="M  ISO  1   2   2\n")),
        ("c.mol", v3000(heavy)),
        ("d.pdb", PDB_WATER.replace(" H\n", " D\n", 1)),
    ):
        carried = []
        data = read_file(written(tmp_path, name, text), ReadOptions(), carried=carried)
        assert data.atomic_numbers.tolist() == [8, 1, 1]
        assert "isotopes" in data.not_read
        assert carried[0].get_masses()[1:] == pytest.approx([2.01, 1.008], abs=0.02)


@pytest.mark.parametrize(
    ("text", "positions"),
    [
        (poscar(scale="2.0"), [1.6, 16]),
        (poscar(scale="-4096"), [1.6, 16]),
        (poscar(scale="2.0", mode="Cartesian"), [0.2, 16]),
        (poscar(scale="2.0 1.0 1.0", mode="cart"), [0.2, 16]),
    ],
)
def test_scales_of_a_poscar(tmp_path, text, positions):
    data = load_dataset(written(tmp_path, "POSCAR", text))
    assert [data.coordinates[1, 0], data.cells[0, 0, 0]] == pytest.approx(positions)


def test_selective_dynamics_are_constraints(tmp_path):
    rows = ["0 0 0 F F F", "0.1 0 0 T T T", "0 0.1 0 T F T"]
    text = poscar(mode="Selective dynamics\nDirect", rows=rows)
    data = load_dataset(written(tmp_path, "POSCAR", text))
    assert data.not_read == ("constraints",)


# Databases.


def database(path, **keys):
    data = keys.pop("data", {})
    with ase.db.connect(path) as db:
        for k in range(2):
            db.write(
                ase.build.molecule("H2O"), data={n: np.asarray(v) for n, v in data.items()},
                **{n: v + k for n, v in keys.items()},
            )  # fmt: skip
        if data:
            db.metadata = {
                "_property_unit_dict": {"e": "Ha", "f": "Ha/Bohr"}, "_distance_unit": "Ang",
            }  # fmt: skip
    return path


@pytest.mark.parametrize("suffix", ["db", "json"])
def test_keys_of_a_database(tmp_path, suffix):
    path = database(tmp_path / f"a.{suffix}", dft_e=-76.0, temperature=300.0)
    data = load_dataset(path, energy_key="dft_e", energy_unit="hartree")
    assert data.energies.tolist() == [-76.0, -75.0]
    with pytest.raises(DataError, match="temperature"):
        load_dataset(path, energy_key="pbe_e")


def test_data_and_units_of_a_database(tmp_path):
    path = database(tmp_path / "a.db", data={"e": [-76.5], "f": np.full((3, 3), 0.1)})
    data = load_dataset(path, energy_key="e", forces_key="f")
    assert data.energies.tolist() == [-76.5, -76.5]
    assert data.forces[0, 0] == pytest.approx(0.1 / 0.529177, rel=1e-5)


def test_charge_in_a_database(tmp_path):
    with pytest.raises(DataError, match=r"frame 0 .*charge"):
        load_dataset(database(tmp_path / "a.db", charge=1))


# What is refused, and where.


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        # Charge and spin.
        ("a.mol", molecule([("O", 0, 0, 0, 5), *WATER[1:]]), r"frame 0 .*charge=-1"),
        ("a.mol", molecule(tail="M  RAD  1   1   3\n"), r"frame 0 .*unpaired_electrons=2"),
        ("a.mol", v3000(extra=" CHG=1"), r"charge=1"),
        ("a.sdf", molecule() + "$$$$\n" + molecule(tail="M  CHG  1   1   1\n"),
         r"frame 1 .*charge=1"),
        ("a.sdf", molecule() + "> <multiplicity>\n3\n\n$$$$\n", r"multiplicity=3"),
        ("a.pdb", atom(charge="1-") + atom(2, " H  ", x=1, element="H"), r"frame 0 .*charge=-1"),
        ("a.pdb", atom(charge="xx"), r"line 1, columns 79-80: 'xx' is not a charge"),
        ("a.mol2", mol2(charges=(-0.6, 0.8, 0.8)), r"charge=1"),
        ("a.mol2", mol2(types=("N.4", "H", "H"), kind="NO_CHARGES"), r"charge=1"),
        # Counts.
        ("a.mol", molecule().replace("  3  0  0", "  4  0  0"), r"line 8: .*not atom 4 of 4"),
        ("a.mol", molecule().replace("  3  0  0", "  2  0  0"), r"line 7: .*where 'M  END'"),
        ("a.sdf", molecule() + molecule(), r"a second molecule, with no line"),
        ("a.mol", v3000(counts="4 2"), r"3 atoms and 2 bonds, its COUNTS line says 4 and 2"),
        ("a.mol2", mol2(n=4), r"frame 0, line 3: 4 atoms are announced, 3 are"),
        ("a.mol2", mol2() + "@<TRIPOS>MOLECULE\nx\n", r"frame 1, line 14"),
        ("a.pdb", f"NUMMDL    3\n{PDB_WATER}END\n", r"announces 3 models, 1 are there"),
        ("a.pdb", f"MODEL        1\n{PDB_WATER}", r"line 1: .*no ENDMDL"),
        ("a.pdb", "MODEL        1\nENDMDL\n", r"line 2: .*has no atoms"),
        ("POSCAR", poscar(counts="1 3"), r"atom 4 of 4"),
        ("POSCAR", poscar(counts="1 1"), r"line 11: .*follows the last atom"),
        ("POSCAR", poscar(counts="1 2 3"), r"3 numbers of atoms for 2 elements"),
        ("POSCAR", poscar(symbols=""), r"line 6: no line of element symbols"),
        ("XDATCAR", "x\n1\n8 0 0\n0 8 0\n0 0 8\nO\n1\nDirect configuration= 1\n0 0 0\n"
                    "Direct configuration= 2\n", r"XDATCAR"),
        # Sites, cells, columns, elements.
        ("a.cif", cif("O1 O 0 0 0 1\nC1 C 0.2 0 0 0.5(1)\n"), r"site C1 has an occupancy of 0.5"),
        ("a.cif", cif("O1 O 0 0 0 1\nO2 O 0.2 0 0 2\n", columns="disorder_group"),
         r"site O2 .*disorder"),
        ("a.cif", cif(more="_chemical_formula_sum 'C H4 O'\n_cell_formula_units_Z 1\n"),
         r"missing \(hydrogen"),
        ("a.cif", cif("O1 O2- 0 0 0 1\nC1 C4+ 0.2 0 0 1\n"), r"add up to \+2"),
        ("a.cif", cif("O1 O 0 0 0 1\nX1 X 0.2 0 0 1\n"), r"site X1: 'X' is not"),
        ("a.cif", "data_x\n_journal_year 2020\n", r"no data block has sites"),
        ("a.cif", "loop_ nothing", r"cannot be read as CIF"),
        ("a.cif", "data_x\nloop_\n_atom_site.Cartn_x\n1.0\n", r"mmCIF"),
        ("a.pdb",
         "CRYST1   10.000   10.000   10.000  90.00  90.00  90.00 P 21 21 21    4\n" + PDB_WATER,
         r"line 1: space group 'P 21 21 21'"),
        ("a.pdb", "CRYST1    1.500    1.500    1.500  90.00  90.00  90.00 P 1\n" + PDB_WATER,
         r"cannot be"),
        ("a.pdb", atom().replace("   0.000", "   0.0000"),
         r"line 1: no coordinates in columns 31-54"),
        ("a.pdb", atom(element="Q"), r"line 1, columns 77-78: 'Q' is not"),
        ("a.mol", molecule([("Du", 0, 0, 0)]), r"line 5: 'Du' is not the symbol"),
        ("a.mol", molecule([("O1", 0, 0, 0)]), r"'O1' is not the symbol"),
        ("a.mol", molecule([]), r"has no atoms"),
        ("a.mol", molecule([("C", 0, 0, 0), ("C", 1.5, 0, 0)], dimension="2D"),
         r"line 2: is a drawing"),
        ("a.mol", molecule([("C", float("nan"), 0, 0)]), r"not finite"),
        ("POSCAR", poscar(rows=["0 0 0", "0.1 x 0", "0 0 0"]), r"line 10: 'x' is not a number"),
        ("POSCAR", poscar(mode="Selective\nDirect"), r"line 10: .*three flags"),
        # Names and contents.
        ("a.pdb", molecule(), r"named like a file of PDB, but holds MOL or SDF; rename"),
        ("a.sdf", PDB_WATER, r"named like a file of MOL or SDF, but holds PDB"),
        ("a.cif", b"\x89HDF\r\n", r"holds HDF5"),
        ("unnamed", "3\n\nO 0.0 0.0 0.0\n", r"frame 0: line 1 says 3 atoms.*ends after 1"),
        ("a.db", "no database at all", r"cannot be read as a database of ASE"),
        ("a.json", '{"a": 1}', r"cannot be read as a database of ASE"),
        ("a.sdf", b"\0\1\2" * 100, r"binary file"),
        ("a.docx", "Dear Sir", r"format is not known.*\.sdf"),
        ("a.traj", "junk", r"a.traj: cannot be read as ASE trajectory"),
        ("a.dump", "ITEM: TIMESTEP\n0\nITEM: NUMBER OF ATOMS\n1\nITEM: BOX BOUNDS pp pp pp\n"
                   "0 9\n0 9\n"
                   "0 9\nITEM: ATOMS id type x y z\n1 1 0 0 0\n", r"no elements"),
        ("a.com", "# b3lyp/sto-3g\n\ntitle\n\n1 2\nO 0 0 0\n\n", r"line 5: has charge 1"),
        ("a.com", "# b3lyp/sto-3g\n\ntitle\n\n0 3\nO 0 0 0\n\n", r"line 5: has multiplicity 3"),
        ("a.gjf", "# hf\n\ntitle\n\n0, 3\nO 0 0 0\n\n", r"multiplicity 3"),
        ("a.com", f"# hf\n\ntitle\n\n0 1\nO{'(' * 100_000} 0 0 0\n\n", r"line 6: has 100,007"),
    ],
)  # fmt: skip
def test_refused(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        load_dataset(written(tmp_path, name, text))


LOG = """ Entering Gaussian System
 Charge =  0 Multiplicity = {multiplicity}
                         Standard orientation:
 ---------------------------------------------------------------------
 Center     Atomic      Atomic             Coordinates (Angstroms)
 Number     Number       Type             X           Y           Z
 ---------------------------------------------------------------------
      1          8           0        0.000000    0.000000    0.000000
      2          8           0        0.000000    0.000000    1.200000
 ---------------------------------------------------------------------
 SCF Done:  E(RB3LYP) =  -150.3 A.U. after    1 cycles
"""


def test_logs_of_gaussian(tmp_path):
    data = load_dataset(written(tmp_path, "a.log", LOG.format(multiplicity=1)))
    assert data.energies.tolist() == [pytest.approx(-150.3, abs=1e-4)]
    with pytest.raises(DataError, match=r"line 2: has multiplicity 3"):
        load_dataset(written(tmp_path, "b.log", LOG.format(multiplicity=3)))


def test_spin_and_constraints_of_a_trajectory(tmp_path):
    oxygen = ase.Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    oxygen.set_constraint(FixAtoms([0]))
    oxygen.calc = SinglePointCalculator(oxygen, energy=-5.0)
    ase.io.write(tmp_path / "a.traj", oxygen)
    data = load_dataset(tmp_path / "a.traj")
    assert data.not_read == ("constraints",)
    oxygen.calc = SinglePointCalculator(oxygen, energy=-5.0, magmom=2.0)
    ase.io.write(tmp_path / "a.traj", oxygen)
    with pytest.raises(DataError, match=r"frame 0 .*magmom=2"):
        load_dataset(tmp_path / "a.traj")
