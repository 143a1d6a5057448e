import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from anipot.cli.data import data_app
from anipot.errors import DataError


def run(*arguments):
    return CliRunner().invoke(data_app, [str(a) for a in arguments])


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "water.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("set/water")
        x = np.array([[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]])
        group["coordinates"] = x + np.random.default_rng(0).normal(scale=0.02, size=(4, 3, 3))
        group["energies"] = np.array([-76.3, -76.31, -76.32, -76.33])
        group["species"] = np.array([b"O", b"H", b"H"])
    return path


def test_info_of_the_bundled_data():
    result = run("info")
    assert result.exit_code == 0
    for text in ("7,419", "63", "H C N O", "RKS wB97X", "hartree", "kcal/mol", "MB"):
        assert text in result.stdout


def test_info_of_a_file_with_a_unit(path):
    result = run("info", path)
    assert "-76.330000 to -76.300000 hartree" in result.stdout
    assert "18.83 kcal/mol" in result.stdout
    result = run("info", path, "--energy-unit", "rydberg")
    assert "-38.165000 to -38.150000 hartree" in result.stdout


def test_check_of_good_files(path):
    result = run("check", path)
    assert result.exit_code == 0
    assert "no problem found in 4 conformers" in result.stdout


def test_check_names_the_bad_group_and_why(path):
    with h5py.File(path, "a") as file:
        file["set/water/energies"][2] = np.nan
    result = run("check", path)
    assert result.exit_code == 1
    assert "group '/set/water': 'energies' of conformer 2 is nan" in result.stdout


def test_check_names_the_unit(path):
    result = run("check", path, "--energy-unit", "kcal/mol")
    assert result.exit_code == 1
    assert "they look like hartree; if so, give energy_unit='hartree'" in result.stdout


def test_check_goes_on_to_the_next_file(path, tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(path.read_bytes()[:500])
    result = run("check", bad, path)
    assert result.exit_code == 1
    assert "bad.h5: unreadable" in result.stdout
    assert "water.h5: no problem found" in result.stdout


def test_errors_are_left_to_the_main_command(tmp_path):
    result = run("info", tmp_path / "nowhere.h5")
    assert isinstance(result.exception, DataError)


@pytest.mark.parametrize("command", ["info", "check"])
def test_help_shows_the_same_in_python(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "from anipot.data" in result.stdout


def test_info_tells_of_energies_in_another_unit(path, caplog):
    assert run("info", path, "--energy-unit", "kcal/mol").exit_code == 0
    assert not caplog.text  # who names the unit knows it
    with h5py.File(path, "a") as file:
        file["set/water/energies"][...] *= 627.5094738898777
    assert run("info", path).exit_code == 0
    assert "they look like kcal/mol" in caplog.text


def test_every_reading_option_is_on_the_command_line():
    from anipot.data.mapping import ReadOptions

    shown = run("info", "--help").stdout
    for name in ReadOptions.model_fields:
        assert "--" + name.replace("_", "-") in shown
    assert "--no-high-energy" not in shown
