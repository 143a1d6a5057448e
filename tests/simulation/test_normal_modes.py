"""Vibrations against formulas: a spring, rigid rotors, harmonic oscillators."""

import ase
import ase.build
import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from anipot.errors import SettingsError, SimulationError
from anipot.simulation import relax, vibrations
from anipot.simulation.normal_modes import geometry


class Springs(Calculator):
    """Harmonic springs of given lengths between given pairs; of known Hessian."""

    implemented_properties = ["energy", "forces", "hessian"]  # noqa: RUF012

    def __init__(self, springs):
        super().__init__()
        self.springs = springs  # (i, j, k eV/A^2, length)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        n = len(atoms)
        energy, forces, second = 0.0, np.zeros((n, 3)), np.zeros((n, 3, n, 3))
        for i, j, k, length in self.springs:
            d = atoms.positions[j] - atoms.positions[i]
            r = np.linalg.norm(d)
            u = d / r
            energy += k / 2 * (r - length) ** 2
            forces[i] += k * (r - length) * u
            forces[j] -= k * (r - length) * u
            block = k * (np.outer(u, u) + (1 - length / r) * (np.eye(3) - np.outer(u, u)))
            for a, b, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                second[a, :, b] += sign * block
        hessian = second.reshape(3 * n, 3 * n)
        self.results = {"energy": energy, "forces": forces, "hessian": hessian}


def nitrogen(k: float = 143.0, r: float = 1.1) -> tuple[ase.Atoms, Springs]:
    atoms = ase.Atoms("N2", [[0, 0, 0], [0, 0.3, np.sqrt(r * r - 0.09)]])
    return atoms, Springs([(0, 1, k, r)])


@pytest.mark.parametrize("method", ["analytic", "finite-difference"])
def test_a_diatomic_molecule(method):
    k, r, t, p = 143.0, 1.1, 350.0, 2e5
    atoms, calc = nitrogen(k, r)
    found = vibrations(atoms, calc, method=method, temperature=t, pressure=p, symmetry_number=2)
    mass = atoms.get_masses()[0] * units._amu  # kg
    omega = np.sqrt(2 * k * units._e * 1e20 / mass)
    wavenumber = omega / (2 * np.pi * units._c * 100)
    tight = 1e-6 if method == "analytic" else 1e-3
    np.testing.assert_allclose(found.frequencies, [wavenumber], rtol=tight)
    assert len(found.others) == 5
    assert np.abs(found.others).max() < (1e-3 if method == "analytic" else 200)
    zero_point = units._hbar * omega / 2 / units._e
    assert found.zero_point == pytest.approx(zero_point, rel=tight)

    # Statistical mechanics of an ideal gas: McQuarrie, Statistical Mechanics, chapters 5 and 6.
    kt = units._k * t
    x = units._hbar * omega / kt
    inertia = mass * (r * 1e-10) ** 2 / 2
    enthalpy = 3.5 * kt + units._hbar * omega * (0.5 + 1 / np.expm1(x))
    translation = (2 * np.pi * 2 * mass * kt / units._hplanck**2) ** 1.5 * kt / p
    rotation = 2 * inertia * kt / units._hbar**2 / 2
    entropy = np.log(translation) + 2.5 + np.log(rotation) + 1
    entropy += x / np.expm1(x) - np.log(-np.expm1(-x))
    thermo = found.thermochemistry
    assert thermo.geometry == "linear"
    assert thermo.enthalpy == pytest.approx(enthalpy / units._e, rel=1e-4)
    assert thermo.entropy == pytest.approx(entropy * units._k / units._e, rel=1e-4)
    assert thermo.gibbs_energy == pytest.approx(thermo.enthalpy - t * thermo.entropy, rel=1e-9)


def test_a_moved_structure_is_refused_with_force_and_way_out():
    atoms, calc = nitrogen()
    atoms.positions[1] *= 1.01
    with pytest.raises(SimulationError, match=r"largest force is 1\.57 eV/A, on atom . \(N\)"):
        vibrations(atoms, calc)
    relaxed = relax(atoms, calc, fmax=1e-4)
    assert vibrations(relaxed.atoms, calc).n_imaginary == 0


def test_a_saddle_point_has_imaginary_frequencies_and_no_thermochemistry():
    # A triangle of atoms pushed flat by a fourth: a negative spring is a maximum along it.
    atoms, calc = nitrogen(k=-50.0)
    found = vibrations(atoms, calc)
    assert found.n_imaginary == 1
    assert found.frequencies[0] < -1000
    assert found.thermochemistry is None
    assert found.zero_point == 0


def test_shapes():
    assert geometry(ase.Atoms("He")) == "monatomic"
    assert geometry(ase.build.molecule("CO2")) == "linear"
    assert geometry(ase.build.molecule("H2O")) == "nonlinear"
    bent = ase.build.molecule("CO2")
    bent.positions[0, 0] += 0.2
    assert geometry(bent) == "nonlinear"


def test_a_crystal_has_three_translations_and_no_ideal_gas():
    copper = relax(ase.build.bulk("Cu", cubic=True, a=3.6), EMT()).atoms
    found = vibrations(copper, EMT(), method="finite-difference")
    assert len(found.frequencies) == 9
    assert np.abs(found.others).max() < 1
    assert found.frequencies.min() > 50
    assert found.thermochemistry is None


def test_nonsense_is_refused():
    atoms, calc = nitrogen()
    for options in ({"temperature": 0}, {"pressure": -1}, {"symmetry_number": 0}, {"fmax": np.nan}):
        with pytest.raises(SettingsError, match="above 0"):
            vibrations(atoms, calc, **options)
    with pytest.raises(SettingsError, match="unknown method"):
        vibrations(atoms, calc, method="guess")


def test_analytic_and_finite_differences_of_the_published_potential(shared_potentials):
    from anipot.formats.neurochem import read_neurochem

    calc = read_neurochem(shared_potentials / "ani-1x_8x.info").double().calculator()
    water = relax(ase.build.molecule("H2O"), calc, fmax=1e-5).atoms
    found = vibrations(water, calc, symmetry_number=2)
    assert found.thermochemistry.geometry == "nonlinear"
    assert np.abs(found.others).max() < 1
    second, n = np.zeros((9, 9)), 9
    for k in range(n):
        for sign in (1, -1):  # over so little, since CELU's second derivative jumps
            moved = water.copy()
            moved.positions.reshape(-1)[k] += sign * 1e-7
            second[k] -= sign * calc.get_property("forces", moved).reshape(-1) / 2e-7
    mass = np.repeat(water.get_masses(), 3)
    eigenvalues = np.linalg.eigvalsh((second + second.T) / 2 / np.sqrt(np.outer(mass, mass)))
    per_second = np.sqrt(eigenvalues[-3:] * units._e / units._amu * 1e20)
    expected = per_second / (2 * np.pi * units._c * 100)
    np.testing.assert_allclose(found.frequencies, expected, atol=0.05)
