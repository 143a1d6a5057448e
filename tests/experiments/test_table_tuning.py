"""Tables whose rows have an option tuned first, and tables that follow another."""

import json

import pytest

from anipot.config import RunSettings
from anipot.data.division import Division
from anipot.errors import SettingsError
from anipot.experiments.table import runs
from anipot.experiments.table.collecting import load_table
from anipot.experiments.table.iterate import iterate, resume_table, run_table
from anipot.experiments.table.presets import SOURCE_UPDATES, source, source_tuned
from anipot.experiments.table.settings import table_settings
from anipot.experiments.table.table import SeedResult, Tuning
from anipot.experiments.table.tuning import tuning_notes
from anipot.experiments.table.writing import in_terminal
from anipot.report.figures import plots
from anipot.runs.run import run_settings, start_run

BASE = {"heavy_atoms": 1, "per_molecule": 16, "batch_size": 16, "hidden": [4]}
TUNE = {"option": "learning_rate", "values": [1e-4, 1e-2, 1e30], "updates": 6}
ROWS = [{}, {"name": "wider", "hidden": [6]}]


def touch(figure, stem):
    stem.parent.mkdir(parents=True, exist_ok=True)
    stem.with_name(f"{stem.name}.png").touch()


@pytest.fixture
def quick_figures(monkeypatch):
    monkeypatch.setattr(plots, "save_figure", touch)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "save_figure", touch)
        folder = tmp_path_factory.mktemp("tuned") / "t"
        return iterate(BASE, ROWS, seeds=2, updates=9, tune=TUNE, folder=folder)


def test_the_rate_with_the_lowest_validation_error_is_that_of_the_runs(tuned):
    for row in tuned.rows:
        assert row.tuning is not None
        by_value = {}
        for value, name in ((1e-4, "0.0001"), (1e-2, "0.01")):
            report = json.loads(
                (tuned.folder / row.name / f"learning_rate={name}" / "run.json").read_text()
            )
            by_value[value] = report["results"]["validation"]["energy"]["mae"]
            assert "test" not in report["results"]
            assert report["updates"] == 6
        best = min(by_value, key=by_value.__getitem__)
        assert row.tuning.values[row.tuning.chosen] == best
        assert row.tuning.errors[2] is None  # it diverged
        assert row.options["training.learning_rate"] == best
        for run in row.runs:
            assert run_settings(run.folder).training.learning_rate == best
            assert (run.updates, run.status) == (9, "finished")
    assert tuned["wider"].changes == {"model.hidden": [6]}


def test_runs_that_tune_cannot_see_the_test_part(tuned):
    whole = Division.load(tuned["base"].runs[0].folder / "split.npz")
    tried = Division.load(tuned.folder / "base" / "learning_rate=0.01" / "split.npz")
    assert len(tried.test) == 0 < len(whole.test)
    assert (tried.train == whole.train).all()
    assert (tried.validation == whole.validation).all()


def test_the_report_has_what_was_tried(tuned):
    page = (tuned.folder / "report.html").read_text()
    chosen = tuned["base"].tuning.chosen
    error = f"{tuned['base'].tuning.errors[chosen]:.3g}"
    assert page.count("Validation MAE (kcal/mol) by learning rate") == 1
    (line,) = (li for li in page.splitlines() if "diverged" in li and ">base<" in li)
    assert line.split('<td class="n">')[1 + chosen].startswith(f"<strong>{error}</strong>")
    assert line.count("<strong>") == 1


def test_what_was_tried_stands_below_the_table(tuned):
    chosen = tuned["base"].tuning.chosen
    error = f"{tuned['base'].tuning.errors[chosen]:.3g}"
    page = (tuned.folder / "table.md").read_text()
    (line,) = (li for li in page.splitlines() if li.startswith("| base |") and "diverged" in li)
    assert line.split(" | ")[1 + chosen] == f"**{error}**"
    assert "one run with 6 updates, seed 0" in page
    assert f"{error}*" in in_terminal(tuned)
    assert f"<strong>{error}</strong>" in (tuned.folder / "table.html").read_text()


def test_a_tuned_table_is_read_back_and_runs_nothing_twice(tuned, quick_figures, monkeypatch):
    monkeypatch.setattr(runs, "train", None)
    assert load_table(tuned.folder) == tuned
    again = iterate(BASE, ROWS, seeds=2, updates=9, tune=TUNE, folder=tuned.folder)
    assert again == tuned


def test_a_tuned_run_is_what_anipot_train_makes_of_its_options(tuned, tmp_path, quick_figures):
    run = tuned["base"].runs[1]
    alone = start_run(run_settings(run.folder), tmp_path / "alone")
    assert alone.test.energy.mae == run.test["mae"]


def tuning(values, maes):
    return Tuning(
        "training.learning_rate",
        tuple(values),
        tuple(
            SeedResult(0, None, "diverged" if m is None else "finished", validation={"mae": m})
            for m in maes
        ),
    )


@pytest.mark.parametrize(
    ("values", "maes", "chosen", "edge"),
    [
        ([1, 2, 3], [3.0, 1.0, 2.0], 1, False),
        ([1, 2, 3], [1.0, 1.0, 2.0], 0, True),  # of equal ones the first
        ([3, 1, 2], [1.0, 3.0, 2.0], 0, True),  # the highest, though first
        ([1, 2, 3], [2.0, 1.0, None], 1, False),  # what lies beyond was tried
        ([0, 1, 2], [1.0, 2.0, 3.0], 0, False),  # nothing lies beyond none
        (["celu", "relu"], [2.0, 1.0], 1, False),
        ([1, 2], [None, None], None, False),
    ],
)
def test_what_is_chosen_and_whether_it_is_at_the_edge(values, maes, chosen, edge):
    assert tuning(values, maes).chosen == chosen
    assert tuning(values, maes).at_edge is edge


def test_nothing_is_chosen_while_a_run_is_missing():
    both = tuning([1, 2], [1.0, 2.0])
    missing = Tuning(both.option, both.values, (both.runs[0], SeedResult(0, None)))
    assert missing.chosen is None


def test_a_row_that_no_value_can_train_is_a_row_with_its_reason(tmp_path, quick_figures, capsys):
    tune = {**TUNE, "values": [1e30, 1e32]}
    folder = tmp_path / "t"
    table = iterate(BASE, [{}], seeds=1, updates=3, tune=tune, folder=folder)
    assert "no value of training.learning_rate that was tried" in table.rows[0].failure
    assert "the loss is" in table.rows[0].failure
    assert table.complete
    assert "row 'base' cannot be run" in capsys.readouterr().out
    assert "no value of" in (folder / "table.md").read_text()


def test_an_interrupted_tuning_goes_on(tmp_path, quick_figures, monkeypatch, tuned):
    train = runs.train

    def interrupted(folder):
        if folder.name == "learning_rate=0.01":
            raise KeyboardInterrupt
        return train(folder)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        half = iterate(BASE, ROWS[:1], seeds=1, updates=9, tune=TUNE, folder=tmp_path / "t")
    assert not half.complete
    assert half.rows[0].tuning.chosen is None
    assert "training.learning_rate" not in half.rows[0].options
    assert "not run yet" in (tmp_path / "t" / "table.md").read_text()
    whole = resume_table(tmp_path / "t")
    assert whole.rows[0].tuning.errors == tuned.rows[0].tuning.errors
    assert whole.rows[0].runs[0].test == tuned.rows[0].runs[0].test


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({**TUNE, "option": "learning_rat"}, "did you mean training.learning_rate"),
        ({**TUNE, "option": "epochs"}, "updates decide the epochs"),
        ({**TUNE, "option": "training.seed"}, "the seeds of the table are the same"),
        ({**TUNE, "values": [1e-3, -1]}, "tune: option 'training.learning_rate'"),
        ({**TUNE, "values": [1e-3, 0.001]}, "a value is given twice"),
        ({**TUNE, "values": [1e-3]}, "tune"),
    ],
)
def test_what_cannot_be_tuned_is_refused(tune, message):
    with pytest.raises(SettingsError, match=message):
        table_settings({"rows": [{}], "tune": tune})


def test_a_tuning_without_memory_is_told_of(tmp_path, quick_figures, monkeypatch, capsys):
    def full(folder, data):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "resume_run", full)
        table = iterate(BASE, [{}], seeds=1, updates=3, tune=TUNE, folder=tmp_path / "t")
    assert not table.complete
    told = capsys.readouterr().out
    assert "row 'base': training.learning_rate is not chosen yet" in told
    assert f"anipot iterate --resume {tmp_path / 't'}" in told


@pytest.mark.parametrize(
    ("base", "rows"), [({"updates": 5}, [{}]), ({}, [{}, {"training.updates": 5}])]
)
def test_updates_are_those_of_the_table(base, rows):
    with pytest.raises(SettingsError, match="leave out"):
        table_settings({"base": base, "rows": rows, "updates": 9})


def test_a_row_cannot_set_what_is_tuned():
    rows = [{"learning_rate": 0.1}]
    with pytest.raises(SettingsError, match="is tuned: leave it out of the row"):
        table_settings({"rows": rows, "tune": TUNE})


def test_a_table_follows_another(tmp_path, quick_figures, monkeypatch):
    train, folder = runs.train, tmp_path / "t"
    first = table_settings({"base": BASE, "rows": [{}], "seeds": 1, "updates": 3})
    second = first.model_copy(update={"title": "The <second>"})

    def interrupted(run):
        if run.parent.parent.name == "then":
            raise KeyboardInterrupt
        return train(run)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "train", interrupted)
        table = run_table(first, folder, then={"then": second})
    assert table.rows[0].runs[0].ended
    assert not table.complete
    assert 'href="then/table.html"' in (folder / "report.html").read_text()
    table = resume_table(folder)
    assert table.complete
    (below,) = table.further
    assert below.rows[0].runs[0].test == table.rows[0].runs[0].test
    assert "Then: [The &lt;second&gt;](then/table.md)" in (folder / "table.md").read_text()
    assert '<a href="then/table.html">The &lt;second&gt;</a>' in (folder / "table.html").read_text()


def test_the_second_table_of_the_source_changes_rates_alone():
    first, second = source(), source_tuned()

    # But for the rates, the rows are those of the first table; original and 1 are then one.
    def networks(parts):
        return [
            {k: v for k, v in row.items() if k not in ("name", "learning_rate", "reported")}
            for row in parts["rows"]
        ]  # fmt: skip

    assert networks(first)[1:] == networks(second)
    assert networks(first)[0] == networks(first)[1]
    assert first["base"] == second["base"]
    settings = table_settings(second)
    assert settings.tune.option == "training.learning_rate"
    assert {"0.001", "0.01"} <= {f"{v:g}" for v in settings.tune.values}


@pytest.mark.parametrize("updates", [None, 600, 40])
def test_the_second_table_costs_less_than_half_of_the_first(updates):
    second = source_tuned(updates)
    rows, tried = len(second["rows"]), len(second["tune"]["values"])
    cost = rows * (3 * second["updates"] + tried * second["tune"]["updates"])
    assert cost < 7 * 3 * (updates or SOURCE_UPDATES) / 2


def test_a_table_without_tuning_has_no_notes_of_it(tuned):
    plain = RunSettings().model_dump(include={"data", "model", "training"})
    table = type(tuned)(tuned.folder, "t", (), (0,), plain)
    assert tuning_notes(table) == []


def test_it_says_that_rows_are_compared_each_at_its_own_value(tuned):
    assert "compared with each other, each at its own learning rate" in tuning_notes(tuned)[1]
    assert tuning_notes(tuned)[1] in (tuned.folder / "table.md").read_text()
