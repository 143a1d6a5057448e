"""What no engine computes: more neighbours than matter has, more images than memory; and Ctrl-C."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from anipot.aev import AEVComputer, AEVSettings, native, native_library
from anipot.aev.geometry import most_neighbors
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.errors import DataError

ENGINES = ["native", "reference", "torchani"]


def crystal(cell, x, pbc=(True, True, True)):
    x = np.asarray(x, dtype=float)
    return Conformers(
        np.full(len(x), 6), x, [0, len(x)], cells=np.asarray(cell, float)[None], pbc=np.array([pbc])
    )


def cluster(n):
    return Conformers(np.full(n, 1), np.zeros((n, 3)), [0, n])


WATER = np.array([[0.0, 0, 0], [0.7, 0.6, 0], [-0.7, 0.6, 0]])
IMPOSSIBLE = {
    "small cell": (crystal(0.4 * np.eye(3), WATER), "more than 4,711 neighbours within 5.2"),
    "oblique cell": (
        crystal([[0.5, 0, 0], [0.6, 0.3, 0], [0, 0, 0.5]], WATER),
        "more than 4,711 neighbours within 5.2",
    ),
    "flat cell": (
        crystal([[4.0, 0, 0], [3.99, 2e-3, 0], [0, 0, 4.0]], WATER),
        "more than 5,000,000 images",
    ),
    "nanometres": (crystal(2e-3 * np.eye(3), WATER), "more than 5,000,000 images"),
    "slab": (
        crystal(0.04 * np.eye(3), WATER, (True, False, True)),
        "more than 4,711 neighbours within 5.2",
    ),
    "one place": (cluster(5000), "more than 4,711 neighbours within 5.2"),
    "one place, fewer": (cluster(1500), "more than 1,436 neighbours within 3.5"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_every_engine_refuses_at_once_what_cannot_be_matter(engine, name):
    data, message = IMPOSSIBLE[name]
    if engine == "torchani" and name == "slab":
        pytest.skip("the engine takes no slabs")
    settings = AEVSettings.ani1x()
    batch = Batch.of(data, settings.elements)
    began = time.monotonic()
    with pytest.raises(DataError, match=f"^conformer 0 has .*{message}.*[Cc]heck the unit"):
        AEVComputer(settings, engine)(batch)
    assert time.monotonic() - began < 10  # it is a tenth of a second; without bounds, minutes


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_dense_crystals_and_long_cutoffs_are_computed(engine):
    """Diamond at three times its density, ten angstrom; and an unreduced cell of it."""
    settings = AEVSettings.ani1x("HC")
    settings = replace(settings, radial_cutoff=10.0, angular_cutoff=3.0)
    edge = 3.567 / 3 ** (1 / 3) / 2
    cell = edge * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]])
    x = np.array([[0.0, 0, 0], cell.sum(0) / 4])
    skewed = np.array([[1, 0, 0], [2, 1, 0], [0, 1, 1]]) @ cell
    found = []
    for lattice in (cell, skewed):
        batch = Batch.of(crystal(lattice, x), settings.elements, torch.float64)
        found.append(AEVComputer(settings, engine)(batch))
    assert found[0].sum() > 100
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def in_one_place(n):
    """Atoms with n neighbours each, the last of them 1 angstrom away, in a large cell."""
    return crystal(20 * np.eye(3), [*[[0.0, 0, 0]] * n, [1.0, 0, 0]])


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_as_many_neighbours_as_there_may_be(engine, monkeypatch):
    monkeypatch.setattr("anipot.aev.geometry.FEW_NEIGHBORS", 30)
    monkeypatch.setattr("anipot.aev.geometry.DENSEST", 0.1)
    assert most_neighbors(5.2) == 58
    computer = AEVComputer(AEVSettings.ani1x(), engine)

    def compute(data):
        return computer(Batch.of(data, computer.settings.elements))

    native_library.c_settings.cache_clear()
    try:
        assert compute(cluster(31)).any()
        assert compute(in_one_place(30)).any()
        for data, message in (
            (cluster(32), r"30 .* 3\.5 "),
            (in_one_place(31), r"30 .* 3\.5 "),
            (in_one_place(59), r"58 .* 5\.2 "),
        ):
            with pytest.raises(DataError, match=f"more than {message}"):
                compute(data)
    finally:
        native_library.c_settings.cache_clear()


# ---- Ctrl-C --------------------------------------------------------------------------------------


def a_second():
    """Settings and a batch that take the native engine a second or so."""
    settings = AEVSettings.cover("HC", radial_cutoff=5.0, angular_cutoff=5.0)
    x = np.random.default_rng(0).uniform(0, 6, (250, 3))
    return settings, Batch.of(crystal(6.0 * np.eye(3), x), settings.elements)


def long_call(function):
    """A call of the native engine that takes several seconds on any machine."""
    settings = AEVSettings.cover("HC", radial_cutoff=9.0, angular_cutoff=9.0)
    x = np.random.default_rng(0).uniform(0, 10, (2500, 3))
    batch = Batch.of(crystal(10.0 * np.eye(3), x), settings.elements)
    if function == "aev":
        return lambda: native.aev(settings, batch, batch.coordinates, batch.cells)
    g = torch.ones(len(x), settings.length)
    return lambda: native.vjp(settings, batch, batch.coordinates, batch.cells, g)


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGINT)
    yield lambda new: signal.signal(signal.SIGINT, new)
    signal.signal(signal.SIGINT, before)


def press(after):
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("function", ["aev", "vjp"])
def test_ctrl_c_ends_a_long_call(function, threads, handler):
    handler(signal.default_int_handler)
    call = long_call(function)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    timer = press(0.2)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        timer.join()
        torch.set_num_threads(before)
    assert time.monotonic() - began < 5
    # What comes next works as if nothing had been.
    settings = AEVSettings.ani1x()
    batch = Batch.of(cluster(2), settings.elements)
    assert native.aev(settings, batch, batch.coordinates, None).any()


def test_a_handler_that_raises_nothing_lets_the_call_go_on(handler):
    """As in a training, where the first Ctrl-C only asks for an end."""
    pressed = []
    handler(lambda *_: pressed.append(time.monotonic()))
    settings, batch = a_second()
    whole = native.aev(settings, batch, batch.coordinates, batch.cells)
    timer = press(0.03)
    again = native.aev(settings, batch, batch.coordinates, batch.cells)
    ended = time.monotonic()
    timer.join()
    assert torch.equal(whole, again)
    assert pressed
    assert pressed[0] < ended


def test_ctrl_c_reaches_the_main_thread_while_another_computes(handler):
    handler(signal.default_int_handler)
    settings, batch = a_second()
    found, done = [], threading.Event()

    def work():
        found.append(native.aev(settings, batch, batch.coordinates, batch.cells))
        done.set()

    worker = threading.Thread(target=work)
    timer = press(0.05)
    worker.start()
    with pytest.raises(KeyboardInterrupt):
        done.wait()
    assert not done.is_set()
    done.wait()
    timer.join()
    assert found[0].any()
