"""The reader of XYZ files: every frame, or an error that names frame and line."""

import bz2
import gzip

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from anipot.data.load import load_dataset
from anipot.errors import DataError
from anipot.units import BOHR_TO_ANGSTROM

METHANOL = (
    "C -0.047 0.662 0.0\nO -0.047 -0.758 0.0\nH -1.092 0.970 0.0\nH 0.878 -1.047 0.0\n"
    "H 0.437 1.073 0.889\nH 0.437 1.073 -0.889\n"
)
H2 = "H 0 0 0\nH 0 0 0.74\n"
POS = "Properties=species:S:1:pos:R:3"


def frame(rows=H2, comment=""):
    return f"{rows.count(chr(10))}\n{comment}\n{rows}"


def write(tmp_path, text, name="some.xyz"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(tmp_path, text, name="some.xyz", **options):
    return load_dataset(write(tmp_path, text, name), **options)


def test_frames_are_those_of_ase(tmp_path):
    """ASE's reader is the independent truth for files that ASE writes."""
    rng = np.random.default_rng(3)
    frames = []
    for i, start in enumerate(("CH3OH", "H2O", "C6H6", "NaCl", "bulk") * 2):
        atoms = bulk("NaCl", "rocksalt", 5.6) if start == "bulk" else molecule(start)
        atoms.rattle(0.1, rng=rng)
        stress = rng.normal(size=6) if start == "bulk" else None
        labels = {} if stress is None else {"stress": stress}
        atoms.calc = SinglePointCalculator(
            atoms, energy=rng.normal(), forces=rng.normal(size=(len(atoms), 3)), **labels
        )
        atoms.info |= {"step": i, "name": "a 'b' [c]", "flag": True, "list": [1, 2], "x": {"a": 1}}
        atoms.arrays["tags"] = np.arange(len(atoms))
        frames.append(atoms)
    path = tmp_path / "all.extxyz"
    ase.io.write(path, frames)
    data = load_dataset(path, energy_unit="hartree", length_unit="angstrom", keep_unlabelled=True)
    expected = ase.io.read(path, ":")
    assert len(data) == len(expected) == 10
    for i, atoms in enumerate(expected):
        part = slice(data.offsets[i], data.offsets[i + 1])
        np.testing.assert_array_equal(data.atomic_numbers[part], atoms.numbers)
        np.testing.assert_array_equal(data.coordinates[part], atoms.positions)
        np.testing.assert_array_equal(data.forces[part], atoms.get_forces())
        np.testing.assert_array_equal(data.cells[i], atoms.cell)
        np.testing.assert_array_equal(data.pbc[i], atoms.pbc)
        assert data.energies[i] == atoms.get_potential_energy()
        if data.has("stress")[i]:
            np.testing.assert_array_equal(data.stress[i], atoms.get_stress(voigt=False))
    assert data.has("stress").tolist() == [False] * 4 + [True] + [False] * 4 + [True]
    assert data.not_read == ("column tags", "flag", "list", "name", "step", "x")


BETWEEN = {
    "nothing": "", "a blank line": "\n", "blanks": "   \n", "three lines": "\n\n \t\n",
}  # fmt: skip


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
@pytest.mark.parametrize("end", ["", "\n", "\n\n  \n"])
def test_all_frames_are_read_whatever_is_blank_between_them(tmp_path, between, end):
    text = between.join([frame(), frame(METHANOL, "energy=-3.0"), frame(comment=POS)]) + end
    data = read(tmp_path, text, keep_unlabelled=True)
    assert data.n_atoms.tolist() == [2, 6, 2]
    assert data.has("energies").tolist() == [False, True, False]


PLAIN = frame(METHANOL, "from somewhere") * 2
FORMS = {
    "windows": PLAIN.replace("\n", "\r\n").encode(),
    "old mac": PLAIN.replace("\n", "\r").encode(),
    "tabs": PLAIN.replace(" ", "\t").encode(),
    "padded": PLAIN.replace("\n", "   \n").replace("C ", "  C ").encode(),
    "no end of line": PLAIN.rstrip().encode(),
    "byte-order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "utf-16": PLAIN.encode("utf-16"),
    "latin-1": PLAIN.replace("somewhere", "Zürich, 3 Å").encode("latin-1"),
    "utf-8": PLAIN.replace("somewhere", "Zürich, 3 Å").encode(),
    "count in blanks": PLAIN.replace("6\n", "   6  \n").encode(),
    "fortran": PLAIN.replace("0.878", "8.78D-1").replace("0.970", "0.0970d+01").encode(),
    "mathematica": PLAIN.replace("0.878", "8.78*^-1").encode(),
    "no zero": PLAIN.replace("0.878", ".878").replace("0.662", "+.662").encode(),
    "lower case": PLAIN.replace("C ", "c ").replace("H ", "h ").encode(),
    "numbers": PLAIN.replace("C ", "6 ").replace("H ", "1 ").replace("O ", "8 ").encode(),
    "labels": PLAIN.replace("C ", "C1 ").replace("H ", "H_ao ").replace("O ", "O12 ").encode(),
    "deuterium": PLAIN.replace("H ", "D ").encode(),
    "extra text": PLAIN.replace("0.0\n", "0.0 # an atom\n").encode(),
    "extra numbers": PLAIN.replace("889\n", "889 0.1\n").replace("0.0\n", "0.0 0.2\n").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_the_same_file(tmp_path, form):
    data = read(tmp_path, FORMS[form])
    assert data.atomic_numbers.tolist() == [6, 8, 1, 1, 1, 1] * 2
    want = [[float(x) for x in row.split()[1:]] for row in METHANOL.splitlines()] * 2
    np.testing.assert_array_equal(data.coordinates, want)
    assert not data.periodic
    assert data.energies is None


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_compressed_files_and_files_of_another_name(tmp_path, pack):
    suffix = "gz" if pack is gzip.compress else "bz2"
    assert len(read(tmp_path, pack(PLAIN.encode()), f"some.xyz.{suffix}")) == 2
    assert len(read(tmp_path, PLAIN, "geometries")) == 2
    with pytest.raises(DataError, match=r"broken\.xyz\.gz: cannot be read"):
        read(tmp_path, pack(PLAIN.encode())[:-20] if suffix == "gz" else b"nothing",
             "broken.xyz.gz")  # fmt: skip
    whole = bytearray(pack(PLAIN.encode() * 50))
    whole[len(whole) // 3 : len(whole) // 2] = b"\xff" * (len(whole) // 2 - len(whole) // 3)
    with pytest.raises(DataError, match=rf"inside\.xyz\.{suffix}: cannot be read"):
        read(tmp_path, bytes(whole), f"inside.xyz.{suffix}")


def test_a_long_line_is_not_quoted_whole(tmp_path):
    text = PLAIN.replace(METHANOL.splitlines()[1], "A" * 5000, 1)
    with pytest.raises(DataError, match=r"frame 0, line 4: 'AAA.*AAA' is no line of an atom") as e:
        read(tmp_path, text, "long.xyz")
    assert len(str(e.value)) < 600


EXT = f"{POS}:forces:R:3"
ROWS = "H 0 0 0 1 2 3\nH 0 0 0.74 -1 -2 -3\n"
WRONG = {
    "too few rows": (frame() + "3\n\n" + H2 + frame(), r"frame 1, line 9: '2' is no line of an "
                     r"atom: it has 1 columns.*atom 3 of 3, as line 5 says"),
    "cut off": (frame() + "9\n\n" + METHANOL, "frame 1: line 5 says 9 atoms.*ends after 6"),
    "too many rows": ("1\n\n" + H2, r"line 4: 'H 0 0 0\.74' follows frame 0, which has 1 atoms"),
    "a blank row": ("3\n\nH 0 0 0\n\nH 0 0 1\n", "frame 0, line 4: the line is blank where atom 2"),
    "no count": ("two\n\n" + H2, "line 1: 'two' is not the number of atoms"),
    "Tinker's": ("2 hydrogen\n1 H 0 0 0 1\n2 H 0 0 1 1\n", "line 1: '2 hydrogen' is not"),
    "text behind": (frame() + "\nend of file\n", "line 6: 'end of file' follows frame 0"),
    "negative count": ("-2\n\n" + H2, "line 1: '-2' is not the number"),
    "a huge count": ("99999999999\n\n" + H2, "frame 0: line 1 says 99999999999 atoms"),
    "a short row": (frame(ROWS, EXT) + frame(ROWS.replace(" -3", ""), EXT),
                    r"frame 1, line 8: 'H 0 0 0\.74 -1 -2'.* 6 columns, and 7 are needed"),
    "a long row": (frame(ROWS.replace("-3", "-3 4"), POS), "frame 0, line 4.*has 8 columns"),
    "one column less": (frame("H 0 0 0 1 2 3\nH 0 0.74 1 2 3\n"), "frame 0, line 4.*6 columns"),
    "decimal commas": (frame("H 0,5 0,5 0,1\n"), "frame 0, line 3: '0,5' in 'positions'"),
    "stars": (frame("H 0 0 ********\n"), r"line 3: '\*+' in 'positions' is not a number"),
    "glued numbers": (frame("H 0 -10.25-10.5 3 1\n"), "'-10.25-10.5' in 'positions'"),
    "python's digits": (frame("H 0 1_0 3\n"), "'1_0' in 'positions' is not a number"),
    "a dummy": (frame("H 0 0 0\nX 0 0 1\n"), "frame 0, line 4: 'X' is a dummy or ghost atom"),
    "Du": (frame("Du 0 0 0\n"), "line 3: 'Du' is a dummy"),
    "a ghost": (frame("H: 0 0 0\n"), "line 3: 'H:' is a dummy"),
    "a vector": (frame("H 0 0 0\nTv 9 0 0\n"), "line 4: 'Tv' is a vector of the cell"),
    "no element": (frame("Qq 0 0 0\n"), "line 3: 'Qq' is not the symbol of an element"),
    "an ion": (frame("Na+ 0 0 0\n"), "line 3: 'Na\\+' is not the symbol"),
    "an alpha carbon": (frame("CA1 0 0 0\n"), "line 3: 'CA1' is not the symbol"),
    "number 0": (frame("0 0 0 0\n"), "line 3: '0' is not the symbol"),
    "number 300": (frame("300 0 0 0\n"), "line 3: '300' is not the symbol"),
    "types of LAMMPS": (frame("1 0 0 0\n2 0 0 1\n", "Atoms. Timestep: 40"), "LAMMPS writes types"),
    "six of Lattice": (frame(comment=f'Lattice="4 5 6 90 90 90" {POS}'),
                       "frame 0, line 2: Lattice has 6 numbers"),
    "words of Lattice": (frame(comment=f'Lattice="a b c" {POS}'), "Lattice='a b c' is not made"),
    "two cells": (frame(comment=f'Lattice="4 5 6" cell="4 5 7" {POS}'), "are different cells"),
    "pbc": (frame(comment=f'pbc="T F" Lattice="4 5 6" {POS}'), "pbc='T F' is not three"),
    "an open quote": (frame(comment=f'{POS} name="x energy=-1'), "line 2: the comment cannot be"),
    "an open bracket": (frame(comment=f"{POS} a=[1,2 energy=-1"), "quote or bracket"),
    "twice": (frame(comment=f"{POS} energy=-1 energy=-2"), "names 'energy' twice, as '-1'"),
    "Properties": (frame(comment="Properties=species:S:1:pos"), "it is made of NAME:TYPE:COLUMNS"),
    "no positions": (frame(comment="Properties=species:S:1:x:R:3"), "it has no positions"),
    "no elements": (frame(comment="Properties=pos:R:3"), "it has no elements"),
    "a type": (frame(comment=f"{POS}:a:Q:1"), "the type of 'a' is 'Q'"),
    "columns twice": (frame(comment=f"{POS}:pos:R:3"), "it has 'positions' twice"),
    "no integer": (frame("H 0 0 0 x\n", f"{POS}:tag:I:1"), "line 3: 'x' in 'tag' is not a whole"),
    "two elements": (frame("H 0 0 0 8\n", f"{POS}:Z:I:1"), "the symbol is 'H', but .* number 8"),
    "four VECs": (frame() + "VEC1 4 0 0\nVEC2 0 4 0\nVEC3 0 0 4\nVEC4 0 0 4\n", "line 8: 'VEC4"),
    "a short VEC": (frame() + "VEC1 4 0\n", "line 5: 'VEC1 4 0' is not VEC1 with three"),
    "only blanks": ("\n \n\n", "no frame in it"),
    "binary": (b"2\n\nH 0 0 \x00\nH 0 0 1\n", "line 3.*in 'positions' is not a number"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_read_is_named_by_frame_and_line(tmp_path, kind):
    text, message = WRONG[kind]
    with pytest.raises(DataError, match=r"(?s)some\.xyz.*" + message):
        read(tmp_path, text)


CELLS = {
    'Lattice="4 0 0 0 5 0 1 0 6" ' + POS: [[4, 0, 0], [0, 5, 0], [1, 0, 6]],
    'Lattice="4 5 6" ' + POS: [[4, 0, 0], [0, 5, 0], [0, 0, 6]],
    "Lattice=[4.0, 5, 6] " + POS: [[4, 0, 0], [0, 5, 0], [0, 0, 6]],
    "Lattice=[[4,0,0],[0,5,0],[1,0,6]] " + POS: [[4, 0, 0], [0, 5, 0], [1, 0, 6]],
    "Lattice={4 0 0 0 5 0 1 0 6} " + POS: [[4, 0, 0], [0, 5, 0], [1, 0, 6]],
    'lattice="4 0 0 0 5D0 0 1 0 6" properties=species:S:1:pos:R:3': [[4, 0, 0], [0, 5, 0],
                                                                     [1, 0, 6]],
    'cell="4 5 6"': [[4, 0, 0], [0, 5, 0], [0, 0, 6]],
    "# CELL(abcABC):  4.0 5.0 6.0 90.0 90.0 90.0  Step: 7 positions{angstrom} cell{angstrom}":
        [[4, 0, 0], [0, 5, 0], [0, 0, 6]],
}  # fmt: skip


@pytest.mark.parametrize("comment", CELLS)
def test_cells_in_comments(tmp_path, comment):
    data = read(tmp_path, frame(comment=comment))
    np.testing.assert_allclose(data.cells[0], CELLS[comment], atol=1e-12)
    assert data.pbc[0].all()
    assert data.coordinates[1].tolist() == [0, 0, 0.74]


def test_periodic_directions_and_vectors_behind_the_atoms(tmp_path):
    lattice = f'Lattice="4 5 6" {POS}'
    for text, pbc in (('pbc="T F 1"', [1, 0, 1]), ("PBC=F", [0, 0, 0]), ("pbc=[true,False,T]",
                      [1, 0, 1])):  # fmt: skip
        data = read(tmp_path, frame(comment=f"{lattice} {text}") + frame(comment=lattice))
        assert data.pbc.tolist() == [[bool(p) for p in pbc], [True] * 3]
    data = read(tmp_path, frame() + "VEC1 4 0 0\nVEC2 0 5 0\n" + frame(METHANOL))
    assert data.pbc.tolist() == [[True, True, False], [False] * 3]
    assert data.cells[0].tolist() == [[4, 0, 0], [0, 5, 0], [0, 0, 0]]


def test_the_comment_of_i_pi_tells_units(tmp_path):
    comment = "# CELL(abcABC): 10 10 10 90 90 90 Step: 0 positions{atomic_unit} cell{angstrom}"
    data = read(tmp_path, frame(comment=comment))
    np.testing.assert_allclose(data.cells[0], 10 * np.eye(3), atol=1e-12)
    assert data.coordinates[1, 2] == pytest.approx(0.74 * BOHR_TO_ANGSTROM)
    with pytest.raises(DataError, match=r"frame 0, line 2: only cells written as CELL\(abcABC\)"):
        read(tmp_path, frame(comment="# CELL(H): 1 2 3"))


def test_words_that_only_look_like_pairs_stay_a_comment(tmp_path):
    for comment in ("O=C=O, said 'so", 'a="open', "[x = 1", "energy: -5 gnorm: 0.1"):
        assert read(tmp_path, frame(comment=comment)).not_read == ("comment",)


GDB = (
    "gdb 9\t160.3\t8.6\t8.6\t0.72\t28.8\t-0.26\t0.05\t0.31\t177.2\t0.055\t-116.61\t-116.60\t"
    "-116.59\t-116.63\t12.5\t"
)
QM9 = (
    f"4\n{GDB}\nC\t0.09\t0.0\t0.0\t-0.5\nC\t1.3\t0.0\t0.0\t0.2\nH\t-1.0\t0.2\t1.5*^-6\t0.1\n"
    "H\t2.4\t0.1\t0.0\t0.2\n338.0\t339.1\t653.2\n" + "C#C\tC#C\t\nInChI=1S/C2H2/c1-2\tInChI=1S/x\n"
)


@pytest.mark.parametrize("copies", [1, 3])
def test_qm9(tmp_path, caplog, copies):
    data = read(tmp_path, QM9 * copies)
    assert data.n_atoms.tolist() == [4] * copies
    assert data.coordinates[2].tolist() == [-1.0, 0.2, 1.5e-6]
    assert data.energies is None
    assert "no energies read, but there is 'U0': name it with energy_key=" in caplog.text
    assert {"U0", "Cv", "homo", "SMILES", "frequencies", "column charges"} <= set(data.not_read)
    data = read(tmp_path, QM9 * copies, energy_key="U0")
    assert data.energies.tolist() == [-116.61] * copies
    assert "U0" not in data.not_read


def test_qm9_without_its_tail_or_with_a_damaged_one(tmp_path):
    assert len(read(tmp_path, QM9.split("338.0")[0] * 2)) == 2
    with pytest.raises(DataError, match=r"line 7: .338.0.*follows frame 0"):
        read(tmp_path, QM9.replace("InChI=1S/C2H2", "1S/C2H2"))
    with pytest.raises(DataError, match="frame 0, line 2: a property of QM9 is not a number"):
        read(tmp_path, QM9.replace("28.8", "n/a"))
