"""A checkpoint with other contents is refused by name, whatever is wrong with them."""

import copy
import io
from dataclasses import fields

import pytest
import torch

from anipot.errors import TrainingError
from anipot.evaluation.history import EpochRecord
from anipot.potential.model import ANIModel
from anipot.training.checkpoint_content import Each, Either, Optional, fitting
from anipot.training.trainer import ANITrainer


def _trainer(**options):
    model = ANIModel.create("HCNO", hidden=[4], seed=0)
    return ANITrainer(model, epochs=2, batch_size=16, **options)


def _changed(path, change):
    """A file with other contents and no checksum, as of an older version."""
    state = torch.load(path, weights_only=True)
    change(state)
    out = io.BytesIO()
    torch.save(state, out)
    path.write_bytes(out.getvalue())


def _set(*keys):
    *path, last, value = keys

    def change(state):
        for key in path:
            state = state[key]
        state[last] = value

    return change


@pytest.fixture(scope="module")
def parts(small):
    return small[:2]


@pytest.fixture(scope="module")
def kept(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "c.pt"
    _trainer(ema=0.9).train(*parts, checkpoint=path, quiet=True)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("networks"), "no 'networks'"),
        (lambda s: s.pop("optimizer"), "no 'optimizer'"),
        (lambda s: s["optimizer"].pop("state"), "no 'state'"),
        (lambda s: s.pop("self_energies"), "self_energies"),
        (lambda s: s.pop("self_energies_note"), "self_energies_note"),
        (lambda s: s.pop("cuda_random"), "no 'cuda_random'"),
        (lambda s: s["place"].pop("epoch"), "no 'epoch'"),
        (lambda s: s["place"].update(more=1), "'more', which is unknown"),
        (_set("engine", "A" * 10_000), "would go on"),
        (_set("fingerprint", torch.zeros(3)), "fingerprint is"),
        (_set("self_energies", torch.zeros(1).expand(2**20, 2**20)), "is needed"),
        (_set("self_energies", torch.full((4,), torch.nan, dtype=torch.float64)), "not finite"),
        (_set("self_energies", torch.empty(4, dtype=torch.float64, device="meta")), "without"),
        (_set("random", torch.zeros(7)), "'random'"),
        (_set("random", torch.zeros(5056, dtype=torch.uint8)), "RNG|mt19937|random"),
        (_set("random_of_other_ranks", 1.5), "is not a list"),
        (_set("place", "history", "epochs", 0, "val_mae", "x"), "'val_mae'"),
        (_set("place", "history", "stopped", "soon"), "none that the training has passed"),
        (_set("place", "history", "stopped", "running"), "none that the training has passed"),
        (_set("place", "updates", 3), "none that the training has passed"),
        (_set("place", "step", -1), "'step'"),
        (_set("place", "best_weights", None), ""),
        (_set("optimizer", "state", 0, "exp_avg", torch.zeros(3)), "'exp_avg'"),
        (_set("average", None), "'average'"),
    ],
)  # fmt: skip
def test_other_contents_are_refused_by_name(parts, kept, tmp_path, change, said):
    path = tmp_path / "c.pt"
    path.write_bytes(kept)
    _changed(path, change)
    if not said:  # what may be so
        _trainer(ema=0.9).train(*parts, checkpoint=path, resume=True, quiet=True)
        return
    with pytest.raises(TrainingError, match=rf"c\.pt: .*({said})") as caught:
        _trainer(ema=0.9).train(*parts, checkpoint=path, resume=True, quiet=True)
    assert len(str(caught.value)) < 1000


def test_what_is_refused_changes_nothing(parts, kept, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(kept)
    _changed(path, lambda s: s["place"].update(step="1"))
    trainer = _trainer(ema=0.9)
    before = copy.deepcopy(trainer.model.networks.state_dict())
    with pytest.raises(TrainingError, match="the training begins again"):
        trainer.train(*parts, checkpoint=path, resume=True, quiet=True)
    after = trainer.model.networks.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adamw"])
def test_every_optimizer_goes_on(parts, tmp_path, optimizer):
    path = tmp_path / "c.pt"
    options = {"optimizer": optimizer, "learning_rate": 1e-4, "l2": 0.01}
    _trainer(**options).train(*parts, checkpoint=path, quiet=True)
    again = _trainer(**options)
    again.train(*parts, checkpoint=path, resume=True, quiet=True)
    assert again.history.stopped == "finished"


def test_columns_that_an_older_version_had_not_may_be_missing(parts, kept, tmp_path):
    path = tmp_path / "c.pt"
    path.write_bytes(kept)

    def older(state):
        for record in state["place"]["history"]["epochs"]:
            del record["val_force_mae"], record["val_force_rmse"]
        del state["random_of_other_ranks"]

    _changed(path, older)
    trainer = _trainer(ema=0.9)
    trainer.train(*parts, checkpoint=path, resume=True, quiet=True)
    assert len(trainer.history) == 2
    assert {f.name for f in fields(EpochRecord)} >= {"val_force_mae", "val_force_rmse"}


@pytest.mark.parametrize(
    ("found", "like"),
    [
        (True, 0), (1, 0.0), (-1, 0), (float("nan"), 0.0), ("x", 0), (None, ""),
        ([1, "x"], Each(0)), ((1,), Each(0)), ("x", Either((None, 0))),
        ({}, {"a": 0}), ({"a": 0, "b": 0}, {"a": 0}), ({"a": "x"}, {"a": Optional(0)}),
        (torch.ones(2).to_sparse(), torch.ones(2)), (torch.ones(2), torch.ones(3)),
        (torch.ones(2), torch.ones(2, dtype=torch.float64)), (1.0, torch.ones(())),
    ],
)  # fmt: skip
def test_what_does_not_fit(found, like):
    with pytest.raises(ValueError, match=r"^here"):
        fitting(found, like, "here")


def test_what_fits_comes_back():
    like = {"a": Each(Either((None, 0))), "b": Optional("")}
    assert fitting({"a": [None, 3]}, like) == {"a": [None, 3]}
    assert fitting(float("inf"), 0.0) == float("inf")
