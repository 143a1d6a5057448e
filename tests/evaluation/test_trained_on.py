"""Which conformers a potential was trained on, told wherever that can be known."""

import dataclasses

import numpy as np
import pytest

from anipot.config import DataSettings
from anipot.data.conformers import Conformers
from anipot.data.division import divide, select
from anipot.data.provenance import provenance
from anipot.data.published.bundled import load_bundled
from anipot.errors import DataError
from anipot.evaluation.trained_on import part_of
from anipot.potential.model import ANIModel


@pytest.fixture(scope="module")
def data() -> Conformers:
    return load_bundled()


def trained_on(data: Conformers, settings: DataSettings) -> tuple[ANIModel, list[Conformers]]:
    """An untrained model that says it was trained: what it predicts does not matter here."""
    model = ANIModel.create("HCNO", hidden=[2])
    chosen = select(data, settings)
    division = divide(chosen, settings)
    model.about = {"data": provenance(chosen, division, settings)}
    return model, division.take(chosen)


@pytest.mark.parametrize(
    "options", [{}, {"heavy_atoms": 2, "per_molecule": 30, "seed": 4}, {"split": "molecule"}]
)
def test_the_parts_are_those_of_the_training(data, options):
    model, parts = trained_on(data, DataSettings(**options))
    for name, expected in zip(("train", "validation", "test"), parts, strict=True):
        found, note = part_of(model, data, name)
        assert found.content_hash() == expected.content_hash()
        assert note == ""
    found, note = part_of(model, data)
    assert found is data
    assert f"trained on {len(parts[0]):,} of these {len(data):,} conformers" in note
    assert "--part test" in note


def test_other_data_has_no_parts(data):
    model, _ = trained_on(data, DataSettings())
    moved = dataclasses.replace(data, energies=data.energies + 1.0, sources=("other.h5",))
    assert part_of(model, moved) == (moved, "")
    with pytest.raises(DataError, match=r"part 'test' cannot be told: this is not the data .*h5"):
        part_of(model, moved, "test")


def test_a_part_of_the_training_file_is_worth_a_warning(data):
    model, _ = trained_on(data, DataSettings())
    some = data.take(np.arange(100))
    found, note = part_of(model, some)
    assert found is some
    assert "was trained on conformers of hcno_wb97x_631gd.h5" in note


@pytest.mark.parametrize(
    "about",
    [{}, {"data": None}, {"data": {}}, {"data": {"options": {"newer": 1}, "sha256": ""}}],
)
def test_a_potential_that_does_not_say(data, about):
    model = ANIModel.create("HCNO", hidden=[2])
    model.about = about
    assert part_of(model, data) == (data, "")
    with pytest.raises(DataError, match="part 'test' cannot be told"):
        part_of(model, data, "test")
