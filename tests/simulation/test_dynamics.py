"""Molecular dynamics: conserved energy, thermostat, and interruption that leaves no trace."""

import json

import ase
import ase.build
import ase.io
import numpy as np
import pytest
from ase import units
from ase.calculators.lj import LennardJones

from anipot.errors import SettingsError, SimulationError
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel
from anipot.simulation import run_md
from anipot.simulation.dynamics import degrees_of_freedom, draw_velocities, energy_drift
from anipot.simulation.figures import md_figure
from anipot.simulation.recording import RestartPoint, Row, read_log


def lj() -> LennardJones:
    return LennardJones(epsilon=0.0104, sigma=3.4, rc=10.0, smooth=True)


def cluster() -> ase.Atoms:
    """Seven argon atoms, near a minimum."""
    sites = [[0, 0, 0], [1, 0, 0], [0.5, 0.87, 0], [0.5, 0.29, 0.82], [0.5, 0.29, -0.82]]
    sites += [[1.5, 0.87, 0], [1.0, 1.16, 0.82]]
    return ase.Atoms("Ar7", 3.8 * np.array(sites))


def ensemble(dtype: str = "float32") -> ANIEnsemble:
    return ANIEnsemble(
        [ANIModel.create("HCNO", seed=k, hidden=[16, 8], dtype=dtype) for k in range(2)]
    )


def test_nve_conserves_the_energy_and_a_longer_step_less_so(tmp_path):
    def spread(timestep: float) -> float:
        out = tmp_path / f"{timestep}.extxyz"
        result = run_md(cluster(), lj(), out, time=4000, timestep=timestep, temperature=30)
        assert result.stopped == ""
        assert abs(result.drift) < 1e-5
        return float(np.std([r.total_ev for r in result.rows]))

    # The error of velocity Verlet is of second order.
    assert 3.0 < spread(8.0) / spread(4.0) < 5.5


def test_the_thermostat_holds_the_temperature(tmp_path):
    result = run_md(
        cluster(), lj(), tmp_path / "t.extxyz", ensemble="nvt", time=20000, timestep=8,
        temperature=20, friction=0.005, every=5, save_every=5000, seed=3,
    )  # fmt: skip
    assert result.drift is None
    assert result.temperature == pytest.approx(20, rel=0.2)
    frames = ase.io.read(tmp_path / "t.extxyz", ":")
    centre = [f.get_center_of_mass() for f in frames]
    np.testing.assert_allclose(centre, np.tile(centre[0], (len(centre), 1)), atol=1e-6)


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
@pytest.mark.parametrize("how", ["nve", "nvt"])
@pytest.mark.parametrize("system", ["molecule", "crystal"])
def test_killed_and_resumed_is_never_interrupted(tmp_path, how, ending, system):
    if system == "molecule":
        atoms = ase.build.molecule("CH3CH2OH")
    else:
        atoms = ase.Atoms("CO2", [[0, 0, 0], [1.2, 0, 0], [-1.2, 0, 0]], cell=[4.1, 4.3, 4.6])
        atoms.pbc = True
    options = {"ensemble": how, "every": 3, "save_every": 10, "timestep": 0.25, "seed": 5}
    options |= {"max_temperature": 1e6}

    def calc():
        return ensemble().calculator()

    whole = run_md(atoms, calc(), tmp_path / f"a.{ending}", time=12, **options)

    class Killed(BaseException):
        pass

    def kill(step: int) -> None:
        if step == 27:
            raise Killed

    with pytest.raises(Killed):
        run_md(atoms, calc(), tmp_path / f"b.{ending}", time=12, **options, on_step=kill)
    assert read_log(tmp_path / "b.csv")[-1].step > 20  # beyond the last restart point
    with (tmp_path / "b.csv").open("a") as file:
        file.write("27,6.75,half a li")  # what a killed process leaves
    again = run_md(atoms, calc(), tmp_path / f"b.{ending}", time=12, **options, resume=True)
    assert again.rows == whole.rows
    assert (again.steps, again.stopped) == (48, "")
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    if ending == "extxyz":
        assert (tmp_path / "b.extxyz").read_bytes() == (tmp_path / "a.extxyz").read_bytes()
    else:
        frames = [ase.io.read(tmp_path / f"{n}.traj", ":") for n in "ab"]
        assert len(frames[0]) == len(frames[1]) == 17
        for one, two in zip(*frames, strict=True):
            np.testing.assert_array_equal(one.positions, two.positions)
            np.testing.assert_array_equal(one.get_momenta(), two.get_momenta())
            np.testing.assert_array_equal(one.get_forces(), two.get_forces())
    with (
        np.load(tmp_path / "a.restart.npz") as one,
        np.load(tmp_path / "b.restart.npz") as two,
    ):
        for name in ("positions", "momenta"):
            np.testing.assert_array_equal(one[name], two[name])


def test_stopping_and_going_on_for_longer(tmp_path):
    calc = ensemble().calculator()
    atoms = ase.build.molecule("H2O")
    options = {"timestep": 0.25, "every": 4, "max_temperature": 1e6}
    whole = run_md(atoms, calc, tmp_path / "a.extxyz", time=10, **options)
    steps = []
    cut = run_md(
        atoms, calc, tmp_path / "b.extxyz", time=5, **options,
        stop=lambda: len(steps) >= 7, on_step=steps.append,
    )  # fmt: skip
    assert (cut.stopped, cut.steps) == ("interrupted", 7)
    longer = run_md(atoms, calc, tmp_path / "b.extxyz", time=10, **options, resume=True)
    assert longer.rows == whole.rows
    # One that was killed after its last step has files that are written later, such as a figure.
    files = {f.name: f.read_bytes() for f in longer.files if f.suffix != ".npz"}
    again = run_md(atoms, calc, tmp_path / "b.extxyz", time=10, **options, resume=True)
    assert (again.rows, again.steps, again.drift) == (whole.rows, 40, whole.drift)
    assert {f.name: f.read_bytes() for f in longer.files if f.suffix != ".npz"} == files
    with pytest.raises(SimulationError, match=r"has done 40 steps .* already"):
        run_md(atoms, calc, tmp_path / "b.extxyz", time=9, **options, resume=True)


def test_another_system_potential_or_option_cannot_go_on(tmp_path):
    calc, atoms = ensemble().calculator(), ase.build.molecule("H2O")
    options = {"timestep": 0.25, "max_temperature": 1e6, "resume": True}
    out = tmp_path / "a.extxyz"
    with pytest.raises(SimulationError, match=r"no .*a\.restart\.npz to go on from"):
        run_md(atoms, calc, out, time=2, **options)
    run_md(atoms, calc, out, time=1, timestep=0.25, max_temperature=1e6)
    with pytest.raises(SimulationError, match="has seed 0, not 1"):
        run_md(atoms, calc, out, time=2, seed=1, **options)
    with pytest.raises(SimulationError, match="is of H2O, the structure given is CH4"):
        run_md(ase.build.molecule("CH4"), calc, out, time=2, **options)
    other = ANIModel.create("HCNO", seed=9, hidden=[4]).calculator()
    with pytest.raises(SimulationError, match="not the potential of that run"):
        run_md(atoms, other, out, time=2, **options)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(SimulationError, match="shorter than when the run was last saved"):
        run_md(atoms, calc, out, time=2, **options)
    (tmp_path / "a.restart.npz").write_bytes(b"PK nonsense")
    with pytest.raises(SimulationError, match="not a restart file"):
        run_md(atoms, calc, out, time=2, **options)
    with pytest.raises(SettingsError, match=r"\.extxyz or \.traj"):
        run_md(atoms, calc, tmp_path / "a.xyzzy", time=2)


def test_an_explosion_is_stopped_and_the_last_good_step_kept(tmp_path):
    result = run_md(cluster(), lj(), tmp_path / "x.extxyz", timestep=200, temperature=300, time=1e5)
    assert "exploded" in result.stopped
    assert "timestep shorter than 200 fs" in result.stopped
    frames = ase.io.read(tmp_path / "x.extxyz", ":")
    assert "exploded" in frames[-1].info["stopped"]
    with np.load(tmp_path / "x.restart.npz") as file:
        momenta = file["momenta"]
    atoms = cluster()
    atoms.set_momenta(momenta)
    assert 2 * atoms.get_kinetic_energy() / (15 * units.kB) < 3000


def test_disagreement_ends_a_run_with_everything_saved(tmp_path):
    members = ensemble("float64")
    atoms = ase.build.molecule("CH3OH")
    free = members.calculator()
    out = tmp_path / "d.extxyz"
    options = {"timestep": 0.25, "time": 20, "every": 1, "max_temperature": 1e6}
    rows = run_md(atoms, free, out, **options).rows
    spreads = np.array([r.disagreement_kcalmol for r in rows])
    limit = float(np.sort(spreads)[len(spreads) // 2])
    limit = max(limit, spreads[0] * 1.000001)
    first = int(np.argmax(spreads > limit))
    assert first > 0
    calc = members.calculator(max_disagreement=limit, on_disagreement="stop")
    result = run_md(atoms, calc, out, **options)
    assert result.steps == first - 1
    assert "the members disagree" in result.stopped
    assert result.rows == rows[:first]
    last = ase.io.read(out)
    assert last.info["step"] == first
    assert last.info["stopped"]
    tight = members.calculator(max_disagreement=spreads[0] / 2, on_disagreement="stop")
    with pytest.raises(SimulationError, match="cannot begin"):
        run_md(atoms, tight, out, **options)


def test_velocities_have_the_temperature_and_move_nothing_as_a_whole():
    rng = np.random.default_rng(0)
    atoms = ase.build.molecule("C6H6")
    temperatures = []
    for _ in range(300):
        draw_velocities(atoms, 300.0, rng)
        temperatures.append(2 * atoms.get_kinetic_energy() / (degrees_of_freedom(atoms) * units.kB))
    assert np.mean(temperatures) == pytest.approx(300, rel=0.03)
    # Of n quadratic motions, the kinetic energy has a relative deviation of sqrt(2 / n).
    assert np.std(temperatures) / 300 == pytest.approx(np.sqrt(2 / 30), rel=0.15)
    assert np.abs(atoms.get_momenta().sum(0)).max() < 1e-12
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-10


def test_velocities_can_be_kept(tmp_path):
    """Two runs end to end are one run."""
    options = {"timestep": 4, "temperature": 30}
    whole = run_md(cluster(), lj(), tmp_path / "w.traj", time=800, **options)
    run_md(cluster(), lj(), tmp_path / "a.traj", time=400, **options)
    half = ase.io.read(tmp_path / "a.traj")
    rest = run_md(half, lj(), tmp_path / "b.traj", time=400, velocities="keep", **options)
    expected = [r.total_ev for r in whole.rows[-len(rest.rows) :]]
    np.testing.assert_allclose([r.total_ev for r in rest.rows], expected, rtol=1e-12)
    with pytest.raises(SimulationError, match="no velocities to keep"):
        run_md(cluster(), lj(), tmp_path / "c.traj", velocities="keep")


@pytest.mark.parametrize(("name", "motions"), [("CO2", 4), ("N2", 1), ("H2O", 3)])
def test_linear_molecules_do_not_rotate_either(name, motions):
    atoms = ase.build.molecule(name)
    draw_velocities(atoms, 300.0, np.random.default_rng(1))
    assert np.isfinite(atoms.get_velocities()).all()
    assert np.abs(atoms.get_angular_momentum()).max() < 1e-12
    assert degrees_of_freedom(atoms) == motions


def test_drift_is_the_slope():
    rows = [Row(k, 10.0 * k, 0, 0, 5 + 2e-4 * 10 * k / 1000, 300, np.nan) for k in range(50)]
    assert energy_drift(rows, 4) == pytest.approx(5e-5)
    assert energy_drift(rows[:2], 4) is None


def test_the_figure_shows_every_quantity(tmp_path):
    calc, out = ensemble().calculator(), tmp_path / "f.extxyz"
    options = {"time": 5, "timestep": 0.25, "every": 1, "max_temperature": 1e6}
    result = run_md(ase.build.molecule("H2O"), calc, out, **options)
    axes = md_figure(result, max_disagreement=1.0).axes
    labels = [a.get_ylabel().replace("\n", " ") for a in axes]
    assert labels == [
        "Energy (eV)", "Total energy (meV/atom)", "Temperature (K)", "Disagreement (kcal/mol)",
    ]  # fmt: skip
    np.testing.assert_allclose(axes[2].lines[0].get_ydata(), [r.temperature_k for r in result.rows])
    single = ANIModel.create("HCNO", hidden=[4]).calculator()
    nvt = run_md(ase.build.molecule("H2O"), single, out, ensemble="nvt", **options)
    assert len(md_figure(nvt).axes) == 2


class Killed(BaseException):
    pass


def killed_at(step: int):
    def kill(now: int) -> None:
        if now == step:
            raise Killed

    return kill


OPTIONS = {"ensemble": "nvt", "every": 2, "save_every": 100, "timestep": 2.0, "temperature": 20.0}


def run_lj(out, time=24, **more):
    return run_md(cluster(), lj(), out, time=time, **OPTIONS, **more)


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_killed_before_the_second_restart_point_again_and_again(tmp_path, ending):
    """The first one is of step 0, which is recorded already."""
    whole = run_lj(tmp_path / f"a.{ending}")
    out = tmp_path / f"b.{ending}"
    for resume, step in ((False, 3), (True, 5), (True, 1)):
        with pytest.raises(Killed):
            run_lj(out, resume=resume, on_step=killed_at(step))
    again = run_lj(out, resume=True)
    assert str(again.rows) == str(whole.rows)  # not a number is not equal to itself
    assert [row.step for row in again.rows] == list(range(0, 13, 2))
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()
    frames = [len(ase.io.read(tmp_path / f"{n}.{ending}", ":")) for n in "ab"]
    assert frames == [7, 7]


def test_a_new_run_leaves_no_restart_file_of_another(tmp_path, monkeypatch):
    run_lj(tmp_path / "a.extxyz", seed=1)
    assert (tmp_path / "a.restart.npz").exists()

    def killed(*_):
        raise Killed

    monkeypatch.setattr(RestartPoint, "write", killed)
    with pytest.raises(Killed):
        run_lj(tmp_path / "a.extxyz", seed=2)
    assert not (tmp_path / "a.restart.npz").exists()


def a_run(tmp_path):
    out = tmp_path / "a.extxyz"
    with pytest.raises(Killed):
        run_lj(out, on_step=killed_at(9))
    return out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("step,", "stop,", 1), "no column 'step'"),
        (lambda text: text.replace("0,0.0,", "0,o.o,", 1), "line 2 is damaged"),
        (lambda text: text.replace("0,0.0,", "7,0.0,", 1), "not the log of"),
        (lambda text: text.replace("0,0.0,", "0;0.0;", 1), "line 2 is damaged"),
        (lambda text: text.replace("0.0", "\xff.0", 1), "line 2: the byte 0xff"),
        (lambda text: text[:40], "shorter than when the run was last saved"),
        (lambda text: text.replace("\n", " "), "no line ends"),
    ],
)
def test_a_damaged_log_is_named(tmp_path, change, said):
    out = a_run(tmp_path)
    log = tmp_path / "a.csv"
    log.write_bytes(change(log.read_text()).encode("latin-1"))
    with pytest.raises(SimulationError, match=rf"a\.csv.*{said}.*start it again|{said}.*a\."):
        run_lj(out, resume=True)


def restart_with(path, rest=None, **arrays):
    with np.load(path) as file:
        found = {k: file[k] for k in file.files}
    about = json.loads(str(found.pop("rest")))
    about.update(rest or {})
    np.savez(path, **{**found, **arrays}, rest=np.array(json.dumps(about)))


@pytest.mark.parametrize(
    "change",
    [
        {"rest": {"step": "0"}},
        {"rest": {"step": -1}},
        {"rest": {"frames": None}},
        {"rest": {"energy": float("nan")}},
        {"rest": {"settings": []}},
        {"rest": {"random_state": {}}},
        {"rest": {"random_state": {"bit_generator": "PCG64", "state": {"state": "x"}}}},
        {"rest": {"another": 1}},
        {"positions": np.zeros((3, 3))},
        {"momenta": np.full((7, 3), np.nan)},
        {"cell": np.array(["a", "b"])},
        {"numbers": np.zeros((7, 2))},
    ],
)
def test_a_restart_file_of_another_kind_is_named(tmp_path, change):
    out = a_run(tmp_path)
    restart_with(tmp_path / "a.restart.npz", **change)
    with pytest.raises(SimulationError, match=r"a\.restart\.npz.*start it again"):
        run_lj(out, resume=True)


def test_cut_and_flipped_restart_files_are_named(tmp_path):
    out, path = a_run(tmp_path), tmp_path / "a.restart.npz"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        for changed in (whole[:place], whole[:place] + b"\xff\xff" + whole[place + 2 :]):
            path.write_bytes(changed)
            try:
                RestartPoint.read(path).check()
            except SimulationError as e:
                said = str(e)
            else:
                continue  # bytes that say nothing, such as times of a zip's members
            assert said.startswith(f"{path}: damaged")
    path.write_bytes(b"")
    with pytest.raises(SimulationError, match=r"a\.restart\.npz: damaged"):
        run_lj(out, resume=True)


def test_a_folder_in_place_of_the_trajectory_is_named(tmp_path):
    out = a_run(tmp_path)
    out.unlink()
    out.mkdir()
    with pytest.raises(SimulationError, match=rf"{out.name} is missing or shorter"):
        run_lj(out, resume=True)


def test_a_restart_file_with_a_cell_without_volume_is_named(tmp_path):
    atoms = ase.build.bulk("Ar", "fcc", a=5.3, cubic=True)
    calculator = ANIModel.create(["Ar"], hidden=[2], seed=0).calculator()
    options = {"timestep": 0.5, "every": 1}
    run_md(atoms, calculator, tmp_path / "a.extxyz", time=1, **options)
    restart = tmp_path / "a.restart.npz"
    with np.load(restart) as file:
        arrays = dict(file)
    np.savez(restart, **{**arrays, "cell": np.zeros((3, 3))})
    with pytest.raises(SimulationError, match=r"a\.restart\.npz: .*no volume"):
        run_md(atoms, calculator, tmp_path / "a.extxyz", time=2, **options, resume=True)
