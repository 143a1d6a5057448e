"""What a table is made of: what is taken, and what is refused in which words."""

import pytest

from anipot.config import RunSettings
from anipot.errors import SettingsError
from anipot.iterations.settings import folder_name, read_parts, row_settings, table_settings


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
