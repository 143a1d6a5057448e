"""Training from a store: the numbers of training from memory, in memory that does not grow."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from anipot import ANIModel, ANITrainer
from anipot.data import shuffling, splits
from anipot.data import views as views_module
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.data.pack import pack
from anipot.data.published.bundled import load_bundled
from anipot.data.views import ConformersView
from anipot.errors import SettingsError
from anipot.training.ranks import Ranks


@pytest.fixture(scope="module")
def data() -> Conformers:
    return load_bundled().select(heavy_atoms=2, per_molecule=40)


@pytest.fixture
def store(data, tmp_path, monkeypatch) -> Conformers:
    """The same conformers in a store of which even a few are streamed."""
    monkeypatch.setattr(views_module, "VIEW_FROM", 10)
    data.save(tmp_path / "data.npz")
    return load_dataset(pack([tmp_path / "data.npz"], tmp_path / "store", progress=False))


@pytest.mark.parametrize("options", [{}, {"force_weight": 0.1}, {"loss": "huber", "updates": 7}])
@pytest.mark.parametrize("repulsion", [False, True])
def test_trains_to_the_same_weights(data, store, options, repulsion):
    weights = []
    for source in (data, store):
        train, val = source.split(0.8, 0.2, seed=2)
        assert isinstance(train, ConformersView) == (source is store)
        model = ANIModel.create("HCNO", hidden=8, seed=1, dtype="float64", repulsion=repulsion)
        trainer = ANITrainer(model, batch_size=64, epochs=2, threads=1, **options)
        history = trainer.train(train, val, quiet=True)
        weights.append((model.state_dict(), history, model.self_energies.values))
    (a, first, sae), (b, second, other_sae) = weights
    np.testing.assert_array_equal(sae, other_sae)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-9, atol=1e-10)
    assert first["updates"] == second["updates"]
    np.testing.assert_allclose(first["val_mae"], second["val_mae"], rtol=1e-9)
    np.testing.assert_allclose(first["train_loss"], second["train_loss"], rtol=1e-9)


def test_a_streamed_part_stays_a_view(store):
    train, val = store.split(0.8, 0.2, seed=2)
    model = ANIModel.create("HCNO", hidden=4, repulsion=True)
    ANITrainer(model, batch_size=64, epochs=1, force_weight=0.1).train(train, val, quiet=True)
    for part in (train, val):  # no array of the length of the data has been gathered
        arrays = [k for k, v in vars(part).items() if isinstance(v, np.ndarray)]
        assert arrays == ["index"]


def test_batches_of_a_store_are_those_of_memory(data, store):
    index = np.random.default_rng(0).permutation(len(data))[:60]
    loaders = [BatchLoader(d.take(index), 16, "HCNO", shuffle=True, seed=3) for d in (data, store)]
    assert [loader.streams for loader in loaders] == [False, True]
    for a, b in zip(*(loader.epoch(4, 1) for loader in loaders), strict=True):
        for name in vars(a):
            x, y = getattr(a, name), getattr(b, name)
            if name != "data_atoms" and isinstance(x, torch.Tensor):
                torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)
        for loader, batch in zip(loaders, (a, b), strict=True):
            found = loader.composition(batch.index)
            whole = torch.as_tensor(data.take(index).composition("HCNO"))
            assert torch.equal(found, whole[batch.index])


def test_an_aev_cache_of_what_is_streamed_is_refused(store):
    train, val = store.split(0.8, 0.2)
    model = ANIModel.create("HCNO", hidden=4)
    with pytest.raises(SettingsError, match="aev_cache=ram"):
        ANITrainer(model, epochs=1, aev_cache="ram").train(train, val, quiet=True)


def test_updates_end_a_training_within_an_epoch(data):
    train, val = data.split(0.8, 0.2)
    model = ANIModel.create("HCNO", hidden=4)
    history = ANITrainer(model, batch_size=32, updates=50).train(train, val, quiet=True)
    assert history["updates"] == [17, 34, 50]
    assert history.stopped == "finished"
    assert history["learning_rate"][-1] < 1e-4  # the schedule ends where the training does


# ---- the order -----------------------------------------------------------------------------------


@pytest.fixture
def windows(monkeypatch):
    monkeypatch.setattr(shuffling, "PERMUTED", 100)
    monkeypatch.setattr(shuffling, "BLOCK", 8)
    monkeypatch.setattr(shuffling, "WINDOW", 32)


@pytest.mark.parametrize("total", [101, 256, 257, 5000, 5003])
def test_every_epoch_has_each_conformer_once(windows, total):
    orders = [np.concatenate(list(shuffling.order(total, 1, epoch))) for epoch in range(3)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(total))
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("start", [0, 1, 255, 256, 300, 4999])
def test_an_epoch_goes_on_from_anywhere(windows, start):
    whole = np.concatenate(list(shuffling.order(5000, 1, 2)))
    rest = np.concatenate(list(shuffling.order(5000, 1, 2, start)))
    np.testing.assert_array_equal(rest, whole[start:])


def test_neighbours_are_far_apart_and_batches_alike(windows):
    order = np.concatenate(list(shuffling.order(20_000, 0, 0)))
    place = np.argsort(order)
    assert np.median(np.abs(np.diff(place))) > 40
    # Batches of 100 sample all of the data: their means scatter as those of random ones do.
    means = order.reshape(-1, 100).mean(1)
    random = np.random.default_rng(0).permutation(20_000).reshape(-1, 100).mean(1)
    assert means.std() < 2 * random.std()


def test_an_epoch_ends_with_batches_like_the_others(windows):
    """1,040 = 4 windows of 256 and two blocks, which must not be a window of their own."""
    for epoch in range(5):
        order = np.concatenate(list(shuffling.order(1040, 0, epoch)))
        assert len(np.unique(order[-16:] // 8)) > 8


def test_no_two_generators_of_an_order_are_the_same(windows, monkeypatch):
    plain, seeds = np.random.default_rng, []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(seed) or plain(seed))
    for epoch in range(3):
        list(shuffling.order(1000, 7, epoch))
    states = {tuple(np.random.SeedSequence(seed).generate_state(4)) for seed in seeds}
    assert len(states) == len(seeds) > 9


def test_ranks_share_the_same_order(windows):
    data = Conformers(np.ones(1000), np.zeros((1000, 3)), np.arange(1001))
    loader = BatchLoader(data, 30, "H", shuffle=True, seed=1)
    whole = list(loader.indices(1))
    assert torch.equal(torch.cat(whole), loader.order(1))
    for k, later in enumerate(loader.indices(1, start=20)):
        assert torch.equal(later, whole[20 + k])
    shares = [torch.cat([Ranks(r, 3).share(i) for i in loader.indices(1)]) for r in range(3)]
    assert torch.equal(torch.cat(shares).sort().values, torch.arange(1000))


# ---- splits of long data -------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(0.8, 0.1, 0.1), (0.5, 0.2), (700, 100, None)])
def test_long_data_is_split_at_random_into_the_sizes_asked_for(monkeypatch, parts):
    monkeypatch.setattr(splits, "LARGE", 100)
    monkeypatch.setattr(splits, "_BLOCK", 64)
    total = 1003
    found = splits.by_conformer(total, parts, seed=4)
    assert [len(f) for f in found] == splits.part_sizes(total, parts)
    together = np.concatenate(found)
    assert len(np.unique(together)) == len(together)
    assert all((np.diff(f) > 0).all() and f.dtype == np.int32 for f in found)
    # Each conformer is as often in the first part as every other.
    often = sum(np.bincount(splits.by_conformer(total, parts, s)[0], minlength=total)
                for s in range(200))  # fmt: skip
    share = len(found[0]) / total
    expected = np.sqrt(200 * share * (1 - share))
    assert abs(often.std() / expected - 1) < 0.1


def test_groups_of_long_data_are_split_as_those_of_short(monkeypatch):
    group = np.random.default_rng(0).integers(0, 50, 1000) * 3
    before = splits.by_group(group, (0.7, 0.2, 0.1), 1)
    monkeypatch.setattr(splits, "LARGE", 100)
    monkeypatch.setattr(splits, "_BLOCK", 64)
    for a, b in zip(before, splits.by_group(group, (0.7, 0.2, 0.1), 1), strict=True):
        np.testing.assert_array_equal(a, b)


# ---- memory --------------------------------------------------------------------------------------

MEASURE = """
import re, sys, threading, time
import anipot.cli, anipot.training.trainer, torch
from anipot.data.load import load_dataset
from anipot import ANIModel, ANITrainer
def anonymous():
    return int(re.search(r"RssAnon:\\s*(\\d+)", open("/proc/self/status").read())[1])
torch.set_num_threads(1)
before = peak = anonymous()
def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)
threading.Thread(target=watch, daemon=True).start()
train, val, _ = load_dataset(sys.argv[1]).split(0.98, 0.01, 0.01)
model = ANIModel.create("HCNO", hidden=4)
ANITrainer(model, batch_size=256, updates=3, threads=1).train(train, val, quiet=True)
print("above", (peak - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_store(tmp_path):
    """2,097,152 conformers (12.6 million atoms, 0.2 GB) train in less than would hold them."""
    n = 1 << 21
    rng = np.random.default_rng(0)
    sizes = np.tile([3, 5, 8, 8], n // 4)
    Conformers(
        np.concatenate([[8, 1, 1, 6, 1, 1, 1, 1, 6, 6, 1, 1, 1, 1, 1, 1, 7, 6, 1, 1, 1, 1, 1, 1]]
                       * (n // 4)),
        rng.normal(scale=2.0, size=(6 * n, 3)).astype(np.float32),
        np.concatenate([[0], np.cumsum(sizes)]),
        energies=rng.normal(size=n),
    ).save(tmp_path / "data.npz")  # fmt: skip
    store = pack([tmp_path / "data.npz"], tmp_path / "store", progress=False)
    command = [sys.executable, "-c", MEASURE, str(store)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    above = int(re.search(r"above (\d+)", found.stdout)[1])
    assert above < 150, f"{above} MB above the imports"
