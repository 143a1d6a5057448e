"""Two molecules, and the texts of files that hold them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

WATER = np.array([[0.0, 0.0, 0.119], [0.0, 0.763, -0.477], [0.0, -0.763, -0.477]])
METHANE = np.array([
    [0.0, 0.0, 0.0], [0.629, 0.629, 0.629], [-0.629, -0.629, 0.629], [-0.629, 0.629, -0.629],
    [0.629, -0.629, -0.629],
])  # fmt: skip
MOLECULES = {"water": ("OHH", WATER, -76.4), "methane": ("CHHHH", METHANE, -40.5)}
EV, BOHR = 27.211386, 0.529177


def conformers(n: int = 3) -> Iterator[tuple[str, str, np.ndarray, np.ndarray, np.ndarray]]:
    """Name, symbols, coordinates (n, a, 3), energies (n,) hartree, forces (n, a, 3)."""
    rng = np.random.default_rng(0)
    for name, (symbols, x, energy) in MOLECULES.items():
        moved = x + rng.normal(scale=0.05, size=(n, *x.shape))
        yield (
            name, symbols, moved, energy + rng.normal(scale=0.01, size=n),
            rng.normal(scale=0.02, size=moved.shape),
        )  # fmt: skip


def xyz(comment: str, columns: bool = False) -> str:
    lines = []
    for name, symbols, x, energies, forces in conformers():
        for k in range(len(x)):
            lines += [str(len(symbols)), comment.format(energy=energies[k], name=name, k=k)]
            for s, p, f in zip(symbols, x[k], forces[k], strict=True):
                more = "".join(f"{v:12.6f}" for v in f) if columns else ""
                lines.append(f"{s:<2}" + "".join(f"{v:12.6f}" for v in p) + more)
    return "\n".join(lines) + "\n"


def sdf(records: int) -> str:
    blocks = []
    for k in range(records):
        atoms = "".join(
            f"{x:10.4f}{y:10.4f}{z:10.4f} {s:<3} 0  0  0  0  0  0  0  0  0  0  0  0\n"
            for s, (x, y, z) in zip("CHHHH", METHANE + 0.01 * k, strict=True)
        )
        bonds = "".join(f"  1{n:3d}  1  0\n" for n in range(2, 6))
        blocks.append(
            f"methane\n  made\n\n  5  4  0  0  0  0  0  0  0  0999 V2000\n{atoms}{bonds}M  END\n"
            + (f"> <energy>\n-40.5\n\n> <name>\nmethane {k}\n\n$$$$\n" if records > 1 else "")
        )
    return "".join(blocks)


def pdb() -> str:
    lines = ["CRYST1   12.000   12.000   12.000  90.00  90.00  90.00 P 1           1"]
    for model in (1, 2):
        lines.append(f"MODEL     {model:4d}")
        for k, (s, p) in enumerate(zip("CHHHH", METHANE, strict=True), start=1):
            x, y, z = p
            lines.append(
                f"HETATM{k:5d}  {s + str(k):<4}MOL A   1    {x:8.3f}{y:8.3f}{z:8.3f}"
                f"  1.00  0.00          {s:>2}"
            )
        lines += ["CONECT    1    2    3    4    5", "ENDMDL"]
    return "\n".join([*lines, "END", ""])


CIF = """data_made
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

POSCAR = """methane
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

MOL2 = """@<TRIPOS>MOLECULE
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

QM9 = """5
gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t\
-40.47893\t-40.476062\t-40.475117\t-40.498597\t6.469
C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689
H\t 0.002150416\t-0.0060313176\t 0.0019761204\t 0.133921
H\t 1.0117308433\t 1.4637511618\t 2.5*^-4\t 0.133922
H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923
H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923
1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078
C\tC
InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4
"""

GAUSSIAN = """ Entering Gaussian System, Link 0=g16
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

GJF = """%chk=made.chk
# wB97X/6-31G(d) force

methane

0 1
C 0.000 0.000 0.000
H 0.629 0.629 0.629
H -0.629 -0.629 0.629
H -0.629 0.629 -0.629
H 0.629 -0.629 -0.629

"""
