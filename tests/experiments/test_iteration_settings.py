"""What a table is made of: what is taken, and what is refused in which words."""

import pytest

from anipot.config import RunSettings
from anipot.errors import SettingsError
from anipot.experiments.table import presets
from anipot.experiments.table.settings import folder_name, read_parts, row_settings, table_settings
from anipot.training.schedules import learning_rate


def rows(**parts):
    return row_settings(table_settings(parts))


def test_rows_change_the_base_and_nothing_else():
    base = {"training": {"epochs": 7}, "hidden": 24}
    first, second = rows(
        base=base, rows=[{}, {"name": "a", "activation": "gelu", "training.l2": 0.1}]
    )
    assert (first.name, first.changes) == ("base", {})
    assert second.changes == {"model.activation": "gelu", "training.l2": 0.1}
    assert first.settings is not None
    assert second.settings is not None
    assert first.settings.model.hidden == second.settings.model.hidden == [24]
    assert second.settings.training.epochs == 7
    expected = first.settings.model_dump()
    expected["model"]["activation"] = "gelu"
    expected["training"]["l2"] = 0.1
    assert second.settings.model_dump() == expected


def test_a_change_to_the_value_of_the_base_is_none():
    (row,) = rows(base={"hidden": [8]}, rows=[{"hidden": 8, "dropout": 0}])
    assert row.changes == {}


def test_a_grid_has_a_row_for_every_combination():
    found = rows(grid={"hidden": [[8], [16, 8]], "dropout": [0, 0.1, 0.2]})
    pairs = {(str(r.settings.model.hidden), r.settings.model.dropout) for r in found}
    assert len(found) == len(pairs) == 6
    assert found[-1].name == "hidden=16-8 dropout=0.2"


def test_settings_of_a_run_are_a_base():
    base = RunSettings.model_validate({"training": {"epochs": 3}})
    (row,) = rows(base=base, rows=[{}])
    assert row.settings == base


def test_a_value_that_cannot_be_is_that_row_alone():
    good, bad = rows(rows=[{}, {"learning_rate": -1}])
    assert good.settings is not None
    assert bad.settings is None
    assert "training.learning_rate" in bad.reason
    assert "greater than 0" in bad.reason


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"rows": [{"hiden": 3}]}, r"'hiden'; did you mean model\.hidden\?"),
        ({"rows": [{"model.hiden": 3}]}, r"'model\.hiden'; did you mean hidden\?"),
        ({"rows": [{}], "base": {"data": {"fils": 1}}}, "did you mean files"),
        ({"rows": [{}], "bas": {}}, "unknown option 'bas'; did you mean base"),
        ({"rows": [{}], "base": 3}, "base must hold sections"),
        ({}, "needs either rows"),
        ({"rows": [{}], "grid": {"hidden": [[8]]}}, "needs either rows"),
        ({"grid": {"dropout": 0.1}}, "'grid'.*valid list"),
        ({"rows": [3]}, "'rows'.*valid dictionary"),
        ({"rows": [{"training.seed": 1}]}, "training.seed cannot be changed"),
        ({"rows": [{"members": 3}]}, "options of data, model, training"),
        ({"rows": [{}, {}]}, "rows need names that differ.*'base' and 'base'"),
        ({"rows": [{"name": "a b"}, {"name": "A/B"}]}, "names that differ"),
        ({"rows": [{"dropout": 2}]}, "no row can be run: dropout=2: .*less than 1"),
        ({"rows": [{}], "seeds": 0}, "'seeds' .*greater than or equal to 1"),
        ({"rows": [{"epochs": 3}], "updates": 9}, "updates and epochs decide the same"),
        ({"rows": [{}], "updates": 9, "base": {"epochs": 3}}, "leave out one"),
        ({"rows": [{"name": "x", "reported": {"mea": 1}}]}, "row 'x': reported: .*mean mae"),
    ],
)
def test_what_is_refused(parts, message):
    with pytest.raises(SettingsError, match=f"(?s){message}"):
        table_settings(parts)


def test_a_file_that_is_no_table(tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text("- 1\n- 2\n")
    with pytest.raises(SettingsError, match=r"t\.yaml: must hold 'base:'"):
        read_parts(path)
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        read_parts(tmp_path / "none.yaml")


def test_names_become_folders_on_every_file_system():
    assert folder_name("384-128-1 ReLU / l2=1e-5") == "384-128-1-ReLU-l2=1e-5"
    assert folder_name("../..") == "row"


# ---- presets -------------------------------------------------------------------------------------


def test_the_controlled_rows_are_the_networks_and_options_of_the_source():
    parts = presets.source(files=["x.h5"])
    table = table_settings(parts)
    found = {row.name: row for row in row_settings(table)}
    assert list(found) == ["original", "1", "2", "3", "4", "5", "6"]
    assert table.updates == 2550
    for row in found.values():
        settings = row.settings
        assert settings is not None
        training = settings.training
        assert (training.optimizer, training.l2, training.schedule) == ("adam", 1e-5, "constant")
        assert (training.target_unit, settings.model.output_unit) == ("hartree", "hartree")
        assert settings.data.files == ["x.h5"]
        rates = {learning_rate(training, k, 100) for k in (0, 1, 50, 99)}
        assert rates == {training.learning_rate}
    # layers, rate, batch, dropout, activation, MAE reported
    expected = {
        "original": ([128], 1e-3, 8192, 0, "relu", 3.99),
        "1": ([128], 1e-5, 8192, 0, "relu", 1.30),
        "2": ([200], 1e-5, 8192, 0, "relu", 4.13),
        "3": ([128, 64], 1e-5, 8192, 0, "relu", 3.91),
        "4": ([128], 1e-5, 8192, 0, "sigmoid", 28.78),
        "5": ([128], 1e-5, 8192, 0.15, "sigmoid", 1244.18),
        "6": ([128, 64], 1e-6, 512, 0, "relu", 31.18),
    }
    for name, row in found.items():
        model, training = row.settings.model, row.settings.training
        rate, size = training.learning_rate, training.batch_size
        known = (model.hidden, rate, size, model.dropout, model.activation, row.reported["mae"])
        assert known == expected[name]
        ends_in_sigmoid = (model.output_activation, model.output_dropout) == ("sigmoid", True)
        assert ends_in_sigmoid == (name == "5")


def test_as_described_is_what_the_text_says():
    found = {
        r.name: r.settings for r in row_settings(table_settings(presets.source("as-described")))
    }
    assert {s.training.epochs for s in found.values()} == {30}
    assert found["6"].training.learning_rate == 1e-5
    assert found["5"].model.output_activation is None
    with pytest.raises(SettingsError, match="updates are of the protocol controlled"):
        presets.source("as-described", updates=9)
    with pytest.raises(SettingsError, match="controlled, as-described or as-written"):
        presets.source("x")


def test_the_architectures_can_all_be_run():
    assert all(row.settings for row in row_settings(table_settings(presets.architectures())))


def test_a_claim_names_rows_that_are_there():
    claim = {"claim": "wide is good", "lower": "wide", "higher": "base"}
    with pytest.raises(SettingsError, match="'wide is good': there is no row 'wide'; rows: base"):
        table_settings({"rows": [{}], "claims": [claim]})


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"claims": [{"claim": "x", "lower": "a", "highr": "b"}]}, "did you mean higher"),
        ({"claims": [{"claim": "x", "lower": "a"}]}, "'claims.0.higher' .*must be given"),
        ({"claims": [5]}, "'claims.0'"),
        ({"claims": {"claim": "x"}}, "'claims'"),
        ({"tune": {"option": "l2", "value": [1, 2], "updates": 3}}, "did you mean values"),
        ({"tune": [1]}, "'tune'"),
    ],
)
def test_a_misspelt_key_within_a_part_names_the_nearest(more, said):
    rows = [{"name": "a"}, {"name": "b", "dropout": 0.1}]
    with pytest.raises(SettingsError, match=said):
        table_settings({"rows": rows, **more})


@pytest.mark.parametrize("name", ["plots", "Table.md", "runs.csv", "tuned", "x" * 300])
def test_a_row_is_not_called_like_the_files_beside_it(name):
    with pytest.raises(SettingsError, match="needs another name"):
        table_settings({"rows": [{"name": name}]})


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "..", "a/../../b", "\x00", "~/x", "C:\\x"])
def test_a_row_has_its_folder_in_that_of_the_table(name, tmp_path):
    folder = tmp_path / folder_name(name)
    assert folder.resolve().parent == tmp_path.resolve()
