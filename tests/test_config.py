"""Options: defaults, checks in plain words, words of the command line, YAML there and back."""

import inspect

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anipot.config import DataSettings, ModelSettings, RunSettings, TrainingSettings
from anipot.errors import SettingsError
from anipot.potential.model import ANIModel
from anipot.system.options import checked, read_yaml, to_yaml, with_words
from anipot.training.trainer import ANITrainer


def run_settings(*words: str) -> RunSettings:
    return checked(RunSettings, with_words({}, words))


# ---- wrong keys and values ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["training.lerning_rate=1"], ["'training.lerning_rate'", "learning_rate?"]),
        (["lerning_rate=1"], ["'lerning_rate'", "training.learning_rate?"]),
        (["trainin.epochs=3"], ["'trainin'", "training?"]),
        (["qqqq=3"], ["'qqqq'"]),
        (["training.qqqq=3"], ["'training.qqqq'", "known:", "batch_size"]),
        (["seed=1"], ["'seed'", "data.seed or training.seed"]),
        (["elements=HC"], ["data.elements or model.elements"]),
        (["epochs"], ["'epochs'", "training.epochs=50"]),
        (["batch_size=0"], ["'training.batch_size'", "conformers per batch", "got 0"]),
        (["epochs=1.5"], ["'training.epochs'", "1.5"]),
        (["optimizer=lbfgs"], ["'training.optimizer'", "known: adamw, adam, sgd", "'lbfgs'"]),
        (["activation=relo"], ["'model.activation'", "known: relu", "'relo'"]),
        (["loss_terms={a: 1}"], ["'training.loss_terms'", "unknown loss term 'a'"]),
        (["learning_rate=-1"], ["'training.learning_rate'", "greater than 0"]),
        (["learning_rate=.inf"], ["'training.learning_rate'"]),
        (["hidden=a,b"], ["'model.hidden'", "160,128,96"]),
        (["hidden=128,0"], ["'model.hidden'"]),
        (["model.elements=HXq"], ["'model.elements'", "'Xq'"]),
        (["energy_unit=parsec"], ["'data.energy_unit'", "hartree, kcal/mol"]),
        (["length_unit=parsec"], ["'data.length_unit'", "angstrom"]),
        (["target_unit=parsec"], ["'training.target_unit'", "hartree"]),
        (["epochs.foo=1"], ["'epochs'"]),
        (["split=random"], ["'data.split'", "'conformer', 'molecule' or 'formula'"]),
    ],
)
def test_a_wrong_option_is_named_with_the_way_out(words, parts):
    with pytest.raises(SettingsError) as e:
        run_settings(*words)
    for part in parts:
        assert part in str(e.value)
    assert "\n" not in str(e.value)
    assert "pydantic" not in str(e.value)


def test_every_wrong_option_is_told_at_once_and_only_once():
    with pytest.raises(SettingsError) as e:
        checked(TrainingSettings, {"epochs": 0, "batchsize": 3, "ema": 2})
    assert str(e.value).count("option") == 3
    with pytest.raises(SettingsError) as e:
        checked(ModelSettings, {"hidden": "wide"})
    assert str(e.value).count("hidden") == 1


def test_settings_cannot_be_changed_past_the_check():
    with pytest.raises(ValueError, match="frozen"):
        TrainingSettings().epochs = -1


# ---- words -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "section", "key", "value"),
    [
        ("learning_rate=1e-3", "training", "learning_rate", 1e-3),
        ("training.learning_rate = 2E-4", "training", "learning_rate", 2e-4),
        ("warmup=.5", "training", "warmup", 0.5),
        ("epochs=1e2", "training", "epochs", 100),
        ("batch_size=010", "training", "batch_size", 10),
        ("clip=none", "training", "clip", None),
        ("clip=null", "training", "clip", None),
        ("epochs=", "training", "epochs", None),
        ("aev_cache=off", "training", "aev_cache", "off"),
        ("loss=mse/sqrt(n)", "training", "loss", "mse/sqrt(n)"),
        ("device=cuda:1", "training", "device", "cuda:1"),
        ("target_unit=ev", "training", "target_unit", "eV"),
        ("high_energy=yes", "data", "high_energy", True),
        ("energy_key=wb97x_dz.energy", "data", "energy_key", "wb97x_dz.energy"),
        ("hidden=160,128,96", "model", "hidden", [160, 128, 96]),
        ("hidden=[160, 128]", "model", "hidden", [160, 128]),
        ("hidden=64", "model", "hidden", [64]),
        ("hidden=[]", "model", "hidden", []),
        ("hidden={H: [3, 4], C: [5]}", "model", "hidden", {"H": [3, 4], "C": [5]}),
        ("model.hidden.H=12,3", "model", "hidden", {"H": [12, 3]}),
        ("model.elements=NO", "model", "elements", "NO"),
        ("model.elements=H,C,Cl", "model", "elements", "HCCl"),
        ("data.elements=[H, C]", "data", "elements", "HC"),
        ("data.seed=3", "data", "seed", 3),
        ("files=a.h5", "data", "files", ["a.h5"]),
        ("files=a.h5,b.h5", "data", "files", ["a.h5", "b.h5"]),
    ],
)
def test_words_mean_what_people_mean(word, section, key, value):
    assert getattr(getattr(run_settings(word), section), key) == value


def test_words_win_over_the_file_and_leave_its_dictionary_alone():
    values = {"training": {"epochs": 5, "ema": 0.9}}
    changed = with_words(values, ["epochs=7", "hidden=3"])
    assert changed == {"training": {"epochs": 7, "ema": 0.9}, "model": {"hidden": 3}}
    assert values == {"training": {"epochs": 5, "ema": 0.9}}


# ---- YAML --------------------------------------------------------------------------------------

texts = st.one_of(
    st.sampled_from(["off", "no", "NO", "1e-3", "1:30", "null", "~", "3", "a: b", "a #b", "true"]),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1),
)
floats = st.floats(1e-12, 0.99)


@settings(max_examples=100, deadline=None)
@given(
    data=st.fixed_dictionaries(
        {},
        optional={
            "files": st.lists(texts, max_size=3),
            "energy_key": texts,
            "elements": st.sampled_from(["NO", "HCNO", "Cl", "N"]),
            "max_energy": floats,
            "train": floats,
            "high_energy": st.booleans(),
        },
    ),
    model=st.fixed_dictionaries(
        {},
        optional={
            "hidden": st.one_of(
                st.lists(st.integers(1, 500), max_size=4),
                st.dictionaries(st.sampled_from("HCNO"), st.lists(st.integers(1, 9))),
            ),
            "output_activation": st.sampled_from([None, "sigmoid"]),
        },
    ),
    training=st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": floats,
            "aev_cache": st.sampled_from(["off", "auto"]),
            "seed": st.integers(0, 2**63 - 1),
            "clip": st.none() | floats,
        },
    ),
)
def test_resolved_options_read_back_the_same(tmp_path_factory, data, model, training):
    before = checked(RunSettings, {"data": data, "model": model, "training": training})
    path = tmp_path_factory.getbasetemp() / "options.yaml"
    path.write_text(to_yaml(before), encoding="utf-8")
    assert checked(RunSettings, read_yaml(path)) == before


def test_resolved_options_say_what_each_means():
    text = to_yaml(RunSettings())
    for section, info in RunSettings.model_fields.items():
        for key, field in info.annotation.model_fields.items():
            assert field.description, f"{section}.{key} has no description"
            (line,) = [
                x for x in text.splitlines() if x.startswith(f"  {key}:") and field.description in x
            ]
            assert line.endswith(f"  # {field.description}")
    # Other programs read it too: PyYAML's own loader gets the same sections and keys.
    assert {k: set(v) for k, v in yaml.safe_load(text).items()} == {
        k: set(v) for k, v in RunSettings().model_dump().items()
    }


def test_yaml_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "o.yaml"
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read"):
        read_yaml(tmp_path / "none.yaml")
    for text, match in [
        ("training: [", "cannot be read as YAML"),
        ("- a\n- b\n", "must hold sections"),
        ("epochs: 3\n", "'epochs' must be a section.*found 3"),
        ("data: file.h5\n", "'data' must be a section"),
    ]:
        path.write_text(text)
        with pytest.raises(SettingsError, match=match):
            read_yaml(path)
    path.write_text("")
    assert read_yaml(path) == {}
    path.write_text("training:\n  # epochs: 3\nmodel:\n  elements: NO\n")
    assert read_yaml(path) == {"training": {}, "model": {"elements": "NO"}}
    path.write_text("1: {2: 3}\n")
    with pytest.raises(SettingsError, match="unknown option '1'"):
        checked(RunSettings, read_yaml(path))


# ---- one owner of every default ----------------------------------------------------------------


def test_every_training_option_reaches_the_trainer(monkeypatch):
    from anipot.training.losses import registered_terms

    monkeypatch.setattr(registered_terms, "_known", {"a": print})
    model = ANIModel.create("HC", hidden=[4])
    assert ANITrainer(model).settings == TrainingSettings()
    other = {
        "batch_size": 7, "epochs": 3, "learning_rate": 0.5, "optimizer": "adam", "l2": 0.1,
        "schedule": "cosine", "warmup": 0.3, "ema": 0.5, "clip": 2.0, "loss": "huber",
        "huber_delta": 2.0, "target_unit": "hartree", "patience": 2, "self_energies": "keep",
        "freeze_layers": 1, "seed": 9, "device": "cpu", "aev_cache": "off",
        "threads": 1, "checkpoint_minutes": 1.0, "per_atom": True, "energy_weight": 2.0,
        "normalize_aevs": True, "cuda_graph": True, "precision": "tf32", "updates": 5,
        "force_weight": 0.5, "stress_weight": 0.1, "loss_terms": {"a": 1.0},
    }  # fmt: skip
    assert set(other) == set(TrainingSettings.model_fields)
    settings = ANITrainer(model, **other).settings.model_dump()
    assert settings == other
    assert all(settings[k] != v for k, v in TrainingSettings().model_dump().items())
    # Keywords change the settings given, and nothing else of them.
    both = ANITrainer(model, TrainingSettings(batch_size=7, l2=0.1), batch_size=9).settings
    assert both == TrainingSettings(batch_size=9, l2=0.1)


def test_every_reading_option_is_one_of_load_dataset():
    from anipot.data.load import load_dataset

    known = inspect.signature(load_dataset).parameters
    reading = ["energy_key", "coordinates_key", "species_key", "forces_key", "energy_unit"]
    for name in [*reading, "length_unit", "high_energy"]:
        assert name in known
        assert DataSettings.model_fields[name].default == known[name].default


@pytest.mark.parametrize(
    ("n", "epochs"), [(1, 500), (64 * 56, 500), (64 * 100, 280), (6000, 298), (10**7, 20)]
)
def test_epochs_make_about_as_many_updates_for_any_size(n, epochs):
    assert TrainingSettings().resolved(n).epochs == epochs
    assert TrainingSettings(epochs=3).resolved(n).epochs == 3


# ---- reading and folds -------------------------------------------------------------------------


def test_one_list_of_reading_options():
    """load_dataset spells its keywords out, for help() and editors: they must be the same."""
    from anipot.data.load import load_dataset
    from anipot.data.mapping import ReadOptions

    keywords = dict(inspect.signature(load_dataset).parameters)
    del keywords["paths"]
    assert {n: p.default for n, p in keywords.items()} == ReadOptions().model_dump()
    assert set(ReadOptions.model_fields) - set(DataSettings.model_fields) == {"keep_unlabelled"}
    assert next(iter(DataSettings.model_fields)) == "files"
    with pytest.raises(SettingsError, match=r"option 'energy_unit' .*parsec"):
        load_dataset("x.h5", energy_unit="parsec")


def test_folds():
    assert run_settings("folds=5", "fold=5").data.fold == 5
    assert run_settings("folds=5").data.fold == 1
    for words, said in (
        (["fold=2"], "needs folds"),
        (["folds=3", "fold=4"], "there are 3 folds"),
        (["folds=3", "fold=0"], "greater than or equal to 1"),
        (["folds=1"], "greater than or equal to 2"),
    ):
        with pytest.raises(SettingsError, match=said):
            run_settings(*words)
    whole = run_settings("folds=5", "fold=3")
    assert checked(RunSettings, yaml.safe_load(to_yaml(whole))) == whole


def bomb() -> bytes:
    """Nine lines that stand for a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{k + 1}: &a{k + 1} [{', '.join([f'*a{k}'] * 10)}]" for k in range(8)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"training:\n  l2: \xe9", r"line 2: the byte 0xe9 is not UTF-8"),
        (b"training:\n\tepochs: 3", r"line 2, column 1: .*; indent with spaces"),
        (b"[" * 100_000, "line 1, column 51: more than 50 levels"),
        (b"- " * 5_000 + b"1", "more than 50 levels"),
        (bomb(), r"line \d, column \d+: aliases stand for more than 100,000 values"),
        (b"a: &a [*a]", r"line 1, column 8: '\*a' is within what it stands for"),
        (b"a: *b", "undefined alias"),
        (b"training: {epochs: 3}\nmodel: {}\ntraining: {}", "line 3.*'training' is there twice, "
         "first in line 1"),
        (b"training:\n  epochs: 3\n  epochs: 4", "line 3.*'epochs' is there twice"),
        (b"a: !!timestamp 2020-01-01", "tag:yaml.org,2002:timestamp"),
        (b"a: !!python/object/apply:os.system [x]", "could not determine a constructor"),
        (b"a: !!int x", "line 1, column 4"),
        (b"a: " + b"9" * 5000, "line 1, column 4.*digits"),
        (b'a: "\\ud800"', "line 1, column 4.*surrogates"),
        (b"a: 1\n---\nb: 2", "another document"),
        (b"a: \x00", "special characters are not allowed"),
        (b"? [1]\n: 2", "unhashable"),
    ],
)  # fmt: skip
def test_yaml_that_cannot_be_read_is_named_with_the_place(tmp_path, content, said):
    path = tmp_path / "o.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=rf"^{path}: .*{said}") as e:
        read_yaml(path)
    assert "\n" not in str(e.value)


def test_yaml_as_people_write_it(tmp_path):
    path = tmp_path / "o.yaml"
    path.write_bytes(
        b"\xef\xbb\xbfdata: {split: NO}\r\nmodel: &m {dropout: 1e-3}\r\ntraining: *m\r\n"
    )
    assert read_yaml(path) == {
        "data": {"split": "NO"}, "model": {"dropout": 1e-3}, "training": {"dropout": 1e-3},
    }  # fmt: skip


def test_dates_and_not_a_number_are_text_and_refused_as_such(tmp_path):
    path = tmp_path / "o.yaml"
    path.write_text(
        "training: {epochs: 2020-01-01, l2: .nan, ema: 1e400, seed: 99999999999999999999}"
    )
    with pytest.raises(SettingsError) as e:
        checked(RunSettings, read_yaml(path))
    for option in ("epochs", "l2", "ema", "seed"):
        assert f"'training.{option}'" in str(e.value)


def test_a_long_value_is_not_told_whole():
    with pytest.raises(SettingsError) as e:
        run_settings(f"training.loss={'x' * 10_000}")
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize("values", [[1, 2], ["ab"], 3, "text"])
def test_options_that_are_no_section_are_refused(values):
    with pytest.raises(SettingsError, match="a section with options is needed"):
        checked(RunSettings, values)
