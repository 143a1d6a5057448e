"""The native engine against the reference engine, TorchANI, and itself."""

import io
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import as_padded, exact_torchani_aev, random_cell, random_conformers
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from anipot.aev import AEVComputer, AEVSettings, native, native_library, native_memory, reference
from anipot.aev.prepared import PreparedAEV
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.errors import AnipotError, DataError, SettingsError

try:
    native_library.load()
except (AnipotError, OSError) as e:
    pytest.skip(f"no native engine: {e}", allow_module_level=True)

#: Several values of every constant, in lists of different lengths; integer and other zetas.
MANY = AEVSettings(
    elements=("O", "H", "C"),
    radial_cutoff=4.4,
    angular_cutoff=2.9,
    radial_eta=(4.0, 16.0),
    radial_shifts=(0.5, 1.2, 2.0, 2.9, 3.5),
    angular_eta=(3.0, 8.0),
    zeta=(1.0, 7.5, 32.0, 5.0, 1.5),
    angular_shifts=(0.7, 1.1, 1.5),
    angle_shifts=(0.3, 0.9, 1.6, 2.2, 2.8),
)
SETTINGS = {"ani1x": AEVSettings.ani1x(), "ani2x": AEVSettings.ani2x(), "many": MANY}
PBC = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)


@pytest.fixture(params=["base", "avx2", "avx512"])
def variant(request):
    """Each instruction set that this machine has."""
    before = native_library.variant()
    if not native_library.use_variant(request.param):
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    native_library.use_variant(before)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def ragged(rng, elements="HCO"):
    return random_conformers(rng, [1, 2, 40, 5, 0, 17, 3], elements)


def mixed_cells(rng, elements="HCO"):
    """Cells of every kind: skewed, smaller than the cutoff, open directions, atoms outside."""
    lengths = [2.1, 4.0, 6.0, 1.0, 9.0]
    cells = np.stack([random_cell(rng, x) for x in lengths])
    cells[1, 2] = 0
    cells[2, 0] = np.nan
    c = random_conformers(rng, [1, 4, 9, 6, 70], elements, cells=cells, pbc=PBC)
    c.coordinates[1:5] += 3 * cells[1, 0] - 5 * cells[1, 1]
    return c


def large(rng, elements="HCO"):
    """Beyond all pairs, so that neighbours come from bins, and cut into parts."""
    return random_conformers(rng, [260, 3, 200], elements, density=0.08)


SYSTEMS = {"ragged": ragged, "cells": mixed_cells, "large": large}


def assert_close(found, truth, relative=1e-10):
    scale = float(truth.detach().abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found, truth.detach(), rtol=0, atol=relative * scale)


def inputs(conformers, settings, seed=0):
    """Batch, and random gradient and tangents, in float64."""
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    n = len(batch.species)
    g = torch.randn(n, settings.length, dtype=torch.float64, generator=generator)
    v = torch.randn(n, 3, dtype=torch.float64, generator=generator)
    w = torch.randn(len(batch), 3, 3, dtype=torch.float64, generator=generator)
    return batch, g, v, None if batch.cells is None else w


def leaves(batch):
    """Coordinates, and cells where there are some, as variables."""
    given = (batch.coordinates, batch.cells)
    return [t.clone().requires_grad_() for t in given if t is not None]


def reference_derivatives(settings, batch, g, v, w):
    """AEVs, gradients by coordinates and cells, and derivative along v and w: all by autograd."""
    variables = [
        t.clone().requires_grad_() for t in (batch.coordinates, batch.cells) if t is not None
    ]
    lattice = variables[1] if len(variables) == 2 else None
    aevs = reference.aev(settings, batch, variables[0], lattice)
    gradients = torch.autograd.grad(aevs, variables, g, retain_graph=True)
    zero = torch.zeros_like(aevs, requires_grad=True)
    linear = torch.autograd.grad(aevs, variables, zero, create_graph=True)
    tangents = [v] if w is None else [v, w]
    total = sum((torch.nan_to_num(a) * b).sum() for a, b in zip(linear, tangents, strict=True))
    (along,) = torch.autograd.grad(total, zero)
    return aevs, gradients, along


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_all_functions_agree_with_the_reference(system, name, variant):
    settings = SETTINGS[name]
    elements = settings.elements if system != "cells" else "HCO"
    conformers = SYSTEMS[system](np.random.default_rng(1), elements)
    batch, g, v, w = inputs(conformers, settings)
    aevs, gradients, along = reference_derivatives(settings, batch, g, v, w)
    x, cells = batch.coordinates, batch.cells
    assert_close(native.aev(settings, batch, x, cells), aevs)
    by_coordinates, by_cells = native.vjp(settings, batch, x, cells, g)
    assert_close(by_coordinates, gradients[0])
    if cells is not None:
        assert_close(by_cells, gradients[1])
    assert_close(native.jvp(settings, batch, x, cells, v, w), along)


@pytest.mark.parametrize("name", ["ani1x", "ani2x"])
def test_agrees_with_torchani_in_float64(name):
    settings = SETTINGS[name]
    conformers = random_conformers(np.random.default_rng(2), [1, 2, 13, 40, 7], settings.elements)
    species, coordinates = as_padded(conformers, settings.elements)
    coordinates.requires_grad_()
    theirs = exact_torchani_aev(settings)(species, coordinates)
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    x = batch.coordinates.clone().requires_grad_()
    ours = native.aev(settings, batch, x, None)
    there = species >= 0
    assert_close(batch.conformer_order(ours).detach(), theirs[there])
    g = torch.randn(theirs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (their_gradient,) = torch.autograd.grad(theirs, coordinates, g)
    (our_gradient,) = torch.autograd.grad(ours, x, g[there][batch.atoms])
    assert_close(batch.conformer_order(our_gradient), their_gradient[there])


def butanes(n):
    m = molecule("trans-butane")
    rng = np.random.default_rng(0)
    x = m.positions + rng.normal(0, 0.1, (n, len(m), 3))
    return Conformers(
        np.tile(m.numbers, n), x.reshape(-1, 3).astype(np.float32), np.arange(n + 1) * 14
    )


@pytest.mark.parametrize("name", ["ani1x", "ani2x"])
@pytest.mark.parametrize("system", ["butane", "ragged", "large"])
def test_float32_errors_are_at_most_twice_those_of_torchani(system, name, variant):
    settings = SETTINGS[name]
    conformers = (
        butanes(40) if system == "butane" else SYSTEMS[system](np.random.default_rng(3), "HCNO")
    )
    conformers = replace(conformers, coordinates=conformers.coordinates.astype(np.float32))
    batch = Batch.of(conformers, settings.elements)
    g = torch.randn(len(batch.species), settings.length, generator=torch.Generator().manual_seed(0))
    exact = native.aev(settings, batch, batch.coordinates.double(), None)
    exact_gradient = native.vjp(settings, batch, batch.coordinates.double(), None, g.double())[0]

    species, coordinates = as_padded(conformers, settings.elements)
    coordinates = coordinates.float().requires_grad_()
    there = species >= 0
    theirs = exact_torchani_aev(settings, torch.float32)(species, coordinates)[there]
    (gradient,) = torch.autograd.grad(theirs, coordinates, g[batch.rows])
    ours = native.aev(settings, batch, batch.coordinates, None)
    our_gradient = native.vjp(settings, batch, batch.coordinates, None, g)[0]

    def errors(found, truth):
        difference = found.detach().double() - truth
        return torch.stack([difference.abs().max(), difference.square().mean().sqrt()])

    limit = 2 * errors(theirs[batch.atoms], exact)
    assert (errors(ours, exact) <= limit).all()
    limit = 2 * errors(gradient[there][batch.atoms], exact_gradient)
    assert (errors(our_gradient, exact_gradient) <= limit).all()


# ---- autograd ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", [False, True])
def test_gradcheck(cell):
    settings = replace(MANY, zeta=(2.5,), angle_shifts=(0.4, 1.9), radial_cutoff=3.0)
    rng = np.random.default_rng(4)
    cells = np.stack([random_cell(rng, 2.6), random_cell(rng, 3.3)]) if cell else None
    conformers = random_conformers(
        rng, [3, 2], "HCO", cells=cells, pbc=PBC[:2] if cell else None, min_distance=0.9
    )
    batch = Batch.of(conformers, settings.elements, dtype=torch.float64)
    variables = [
        t.clone().requires_grad_() for t in (batch.coordinates, batch.cells) if t is not None
    ]
    g = torch.randn(5, settings.length, dtype=torch.float64).requires_grad_()

    def f(x, cells=None):
        return native.aev(settings, batch, x, cells)

    def df(g, x, cells=None):
        result = native.vjp(settings, batch, x, cells, g)
        return result if cells is not None else result[0]

    def dv(v, x, cells=None):
        return native.jvp(settings, batch, x, cells, v, None)

    assert torch.autograd.gradcheck(f, variables, atol=1e-6)
    assert torch.autograd.gradcheck(df, [g, *variables], atol=1e-6)
    v = torch.randn(5, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(dv, [v, *variables], atol=1e-6)


def test_a_hessian_is_that_of_the_reference():
    settings = MANY
    batch = Batch.of(
        random_conformers(np.random.default_rng(5), [4], "HCO"), settings.elements, torch.float64
    )
    weights = torch.randn(4, settings.length, dtype=torch.float64)

    def hessian(engine):
        return torch.autograd.functional.hessian(
            lambda x: (engine(settings, batch, x, None).square() * weights).sum(), batch.coordinates
        )

    assert_close(hessian(native.aev), hessian(reference.aev))


def test_second_derivatives_that_keep_their_graph():
    """They are those without it; and third derivatives go through that graph."""
    settings = AEVSettings.ani1x("HCO")
    batch = Batch.of(mixed_cells(np.random.default_rng(8), "HCO"), settings.elements, torch.float64)
    _, g, v, w = inputs(mixed_cells(np.random.default_rng(8), "HCO"), settings)

    def second(engine, keep):
        x, cells = variables = leaves(batch)
        aevs = engine(settings, batch, x, cells)
        total = (aevs.square() * g).sum()  # its gradient by the AEVs has a graph too
        first = torch.autograd.grad(total, variables, create_graph=True)
        along = (first[0] * v).sum() + (first[1] * w).sum()
        found = torch.autograd.grad(along, variables, create_graph=keep)
        third = torch.autograd.grad((found[0] * v).sum(), variables) if keep else ()
        return [*found, *third]

    truth = second(reference.aev, True)
    for a, b in zip(second(native.aev, True), truth, strict=True):
        assert_close(a, b)
    for a, b in zip(second(native.aev, False), truth[:2], strict=True):
        assert_close(a, b)


def test_force_training_never_calls_the_reference(monkeypatch):
    settings = AEVSettings.ani1x("HCO")
    batch = Batch.of(ragged(np.random.default_rng(6)), settings.elements, torch.float64)
    network = torch.nn.Sequential(
        torch.nn.Linear(settings.length, 8), torch.nn.CELU(0.1), torch.nn.Linear(8, 1)
    ).double()
    target = torch.randn(len(batch.species), 3, dtype=torch.float64)

    def gradients(engine, detached):
        x = batch.coordinates.clone().requires_grad_()
        aevs = engine.aev(settings, batch, x, None)
        if detached:
            aevs = aevs.detach().requires_grad_()
            (g,) = torch.autograd.grad(network(aevs).sum(), aevs, create_graph=True)
            forces = -engine.vjp(settings, batch, x.detach(), None, g)[0]
        else:
            forces = -torch.autograd.grad(network(aevs).sum(), x, create_graph=True)[0]
        loss = (forces - target).square().mean()
        return torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)

    truth = gradients(reference, detached=False)

    def refuse(*arguments):
        raise AssertionError("force training went through the reference engine")

    monkeypatch.setattr(reference, "aev", refuse)
    found = gradients(native, detached=True)
    for a, b in zip(found, truth, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            assert_close(a, b)
    with pytest.raises(AssertionError, match="reference"):  # the count does count
        gradients(native, detached=False)


def test_vjp_and_jvp_are_adjoint_in_float32():
    settings = SETTINGS["ani1x"]
    batch = Batch.of(mixed_cells(np.random.default_rng(7)), settings.elements)
    g = torch.randn(len(batch.species), settings.length)
    v, w = torch.randn(len(batch.species), 3), torch.randn(len(batch), 3, 3)
    by_x, by_cells = native.vjp(settings, batch, batch.coordinates, batch.cells, g)
    along = native.jvp(settings, batch, batch.coordinates, batch.cells, v, w)
    left = (by_x.double() * v).sum() + (by_cells.double() * w).sum()
    torch.testing.assert_close(left, (g.double() * along).sum(), rtol=1e-4, atol=1e-3)


# ---- threads and processes -----------------------------------------------------------------------


def results(settings, batch):
    g = torch.randn(
        len(batch.species), settings.length, generator=torch.Generator().manual_seed(0)
    ).to(batch.coordinates.dtype)
    x, cells = batch.coordinates, batch.cells
    by_x, by_cells = native.vjp(settings, batch, x, cells, g)
    found = [native.aev(settings, batch, x, cells), by_x, native.jvp(settings, batch, x, cells, x)]
    return found if by_cells is None else [*found, by_cells]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("system", ["butane", "large", "cells"])
def test_same_bits_whatever_the_number_of_threads(system, dtype, threads):
    settings = SETTINGS["ani1x"]
    conformers = butanes(200) if system == "butane" else SYSTEMS[system](np.random.default_rng(8))
    batch = Batch.of(conformers, settings.elements, dtype)
    threads(1)
    truth = results(settings, batch)
    for n in (2, 3, 7):
        threads(n)
        for a, b in zip(results(settings, batch), truth, strict=True):
            assert torch.equal(a, b)


def _in_child(queue, settings, batch):
    queue.put([r.numpy() for r in results(settings, batch)])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_works_after_fork_and_from_several_threads_at_once(threads):
    settings = SETTINGS["ani1x"]
    batch = Batch.of(butanes(200), settings.elements)
    threads(2)
    truth = [r.numpy() for r in results(settings, batch)]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_in_child, args=(queue, settings, batch))
    child.start()
    found = queue.get(timeout=60)
    child.join(60)
    assert child.exitcode == 0
    many = [None] * 4

    def work(k):
        many[k] = [r.numpy() for r in results(settings, batch)]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for result in (found, *many):
        for a, b in zip(result, truth, strict=True):
            assert np.array_equal(a, b)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_another_thread_takes_memory_does_not_hang():
    settings = SETTINGS["ani1x"]
    batch = Batch.of(butanes(200), settings.elements)
    assert len(batch.species) * settings.length * 4 > native_memory._LARGE
    native_memory._lock.acquire()
    try:
        child = os.fork()
        if child == 0:  # pragma: no cover
            signal.alarm(20)
            native_memory.memory(len(batch.species), settings.length, torch.float32)
            os._exit(7)
    finally:
        native_memory._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


#: Room for small arrays, none for another thread: its stack alone would take more.
_WITHOUT_THREADS = """
import resource, sys, threading
import torch
from test_native import SETTINGS, Batch, butanes, native
torch.set_num_threads(1)
settings = SETTINGS["ani1x"]
batch = Batch.of(butanes(200), settings.elements)
def results():
    x = batch.coordinates
    g = torch.ones(len(x), settings.length)
    return native.aev(settings, batch, x, None), native.vjp(settings, batch, x, None, g)[0]
truth = results()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
try:
    threading.Thread(target=print).start()
    sys.exit("a thread could be started")
except RuntimeError:
    pass
torch.get_num_threads = lambda: 4
for a, b in zip(results(), truth):
    assert torch.equal(a, b)
print("as with one thread")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of Linux")
def test_without_more_threads_one_does_all():
    resource = pytest.importorskip("resource")
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    if hard != resource.RLIM_INFINITY and hard < 512 << 20:
        pytest.skip("stacks are limited here")

    def large_stacks():
        resource.setrlimit(resource.RLIMIT_STACK, (512 << 20, hard))

    tests = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT_THREADS],
        capture_output=True,
        text=True,
        preexec_fn=large_stacks,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), *sys.path])},
    )
    assert "as with one thread" in run.stdout, run.stderr


# ---- memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 200])
def test_aevs_own_their_memory_and_may_be_changed_in_place(n):
    settings = SETTINGS["ani1x"]
    batch = Batch.of(butanes(n), settings.elements)
    x = batch.coordinates.clone().requires_grad_()
    ones = torch.ones(len(x), settings.length)
    native.aev(settings, batch, x, None).mul_(2.0).sum().backward()
    assert_close(x.grad, 2 * native.vjp(settings, batch, x.detach(), None, ones)[0], 1e-5)
    aevs = native.aev(settings, batch, x.detach(), None)
    assert not aevs._is_view()
    assert aevs.data_ptr() % 64 == 0
    assert aevs.untyped_storage().nbytes() == aevs.nbytes
    buffer = io.BytesIO()
    torch.save(aevs, buffer)
    assert len(buffer.getvalue()) < aevs.nbytes + 4096


def test_memory_is_used_again_only_when_no_tensor_has_it(monkeypatch):
    monkeypatch.setattr(native_memory, "_kept", [])

    def take():
        return native_memory.memory(1000, 384, torch.float32)

    first, old = take()
    assert not old
    place = first.data_ptr()
    holders = [
        lambda a: a,
        lambda a: a[5:],
        lambda a: a.numpy(),
        lambda a: torch.from_numpy(a.numpy()),
        lambda a: torch.utils.dlpack.from_dlpack(a),
        lambda a: a.untyped_storage(),
    ]
    for hold in holders:
        held = hold(first)
        del first
        second, old = take()
        assert not old
        assert second.data_ptr() != place
        del held, second
        native_memory._kept[1:] = []
        first, old = take()
        if native_memory._IDLE is None:
            pytest.skip("this interpreter does not count references")
        assert old
        assert first.data_ptr() == place


def test_without_counts_of_references_no_memory_is_used_again(monkeypatch):
    monkeypatch.setattr(native_memory, "_kept", [])
    monkeypatch.setattr(native_memory, "_references", lambda arrays, k: 1)  # as if all were elided
    assert native_memory._idle_references() is None
    monkeypatch.setattr(native_memory, "_IDLE", None)
    first, _ = native_memory.memory(1000, 384, torch.float32)
    del first
    assert not native_memory.memory(1000, 384, torch.float32)[1]
    assert not native_memory._kept


def test_the_default_device_does_not_matter():
    settings = SETTINGS["ani1x"]
    batch = Batch.of(mixed_cells(np.random.default_rng(15)), settings.elements)
    x, cells = batch.coordinates, batch.cells
    g = torch.ones(len(x), settings.length)
    truth = native.vjp(settings, batch, x, cells, g)
    torch.set_default_device("meta")
    try:
        found = native.vjp(settings, batch, x, cells, g)
        prepared = PreparedAEV(settings, batch, torch.float32)
        prepared.coordinates.copy_(x)
        prepared.cells.copy_(cells)
        prepared.forward()
        prepared.gradient.fill_(1)
        prepared.backward()
    finally:
        torch.set_default_device(None)
    for a, b, c in zip(
        found, truth, (prepared.coordinate_gradient, prepared.cell_gradient), strict=True
    ):
        assert torch.equal(a, b)
        assert torch.equal(c, b)


# ---- batches -------------------------------------------------------------------------------------


def test_a_batch_is_its_conformers_one_by_one():
    settings = SETTINGS["ani2x"]
    conformers = mixed_cells(np.random.default_rng(9))
    whole = Batch.of(conformers, settings.elements)
    aevs = whole.conformer_order(native.aev(settings, whole, whole.coordinates, whole.cells))
    for k in range(len(conformers)):
        one = Batch.of(conformers.take([k]), settings.elements)
        single = one.conformer_order(native.aev(settings, one, one.coordinates, one.cells))
        assert torch.equal(single, aevs[conformers.offsets[k] : conformers.offsets[k + 1]])


# ---- odd inputs ----------------------------------------------------------------------------------


def positive(least, most):
    return st.floats(least, most, allow_nan=False, width=32)


@st.composite
def any_settings(draw):
    def values(least, most, size=3):
        return tuple(draw(st.lists(positive(least, most), min_size=1, max_size=size)))

    radial_cutoff = draw(positive(0.5, 6))
    return AEVSettings(
        elements=("H", "C", "O")[: draw(st.integers(1, 3))],
        radial_cutoff=radial_cutoff,
        angular_cutoff=radial_cutoff * draw(st.sampled_from([0.3, 0.7, 1.0])),
        radial_eta=values(0.125, 30),
        radial_shifts=values(0, 5, 20),
        angular_eta=values(0.125, 30),
        zeta=tuple(
            draw(st.lists(st.one_of(st.integers(1, 70), positive(1, 70)), min_size=1, max_size=3))
        ),
        angular_shifts=values(0, 4, 9),
        angle_shifts=values(0, 3.125, 9),
    )


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    any_settings(),
    st.integers(0, 2**32 - 1),
    st.sampled_from(list(native_library.VARIANTS)),
    st.data(),
)
def test_any_settings_and_geometries(settings, seed, variant, data):
    """Also coincident atoms, collinear atoms, an atom on the cutoff, none and one."""
    rng = np.random.default_rng(seed)
    sizes = data.draw(st.lists(st.integers(0, 12), max_size=4))
    periodic = data.draw(st.booleans())
    cells = np.stack([random_cell(rng, 3.0) for _ in sizes]) if periodic and sizes else None
    pbc = rng.random((len(sizes), 3)) < 0.7 if cells is not None else None
    if cells is not None:
        # Second derivatives of the reference engine keep every triple: 20 GB without a bound.
        images = 4 * settings.angular_cutoff**3 / 27
        triples = sum(n * (n * images) ** 2 / 2 for n in sizes)
        assume(triples * settings.angular_terms < 1e6)
    conformers = random_conformers(rng, sizes, settings.elements, 0.3, cells=cells, pbc=pbc)
    odd = data.draw(st.sampled_from(["", "coincident", "collinear", "cutoff"]))
    x = conformers.coordinates
    first = conformers.offsets[:-1][conformers.n_atoms >= 3]
    if odd == "coincident":
        x[first] = x[first + 1]
    if odd == "collinear":
        x[first + 2] = 2 * x[first + 1] - x[first]
    if odd == "cutoff":
        x[first + 1] = x[first] + [settings.radial_cutoff, 0, 0]
        x[first + 2] = x[first] - [settings.angular_cutoff, 0, 0]
    before = native_library.variant()
    native_library.use_variant(variant)
    try:
        batch, g, v, w = inputs(conformers, settings, seed % 1000)
        aevs, gradients, along = reference_derivatives(settings, batch, g, v, w)
        x, cells = batch.coordinates, batch.cells
        pairs = [
            (native.aev(settings, batch, x, cells), aevs),
            (native.jvp(settings, batch, x, cells, v, w), along),
            *zip(native.vjp(settings, batch, x, cells, g), gradients, strict=False),
        ]
    finally:
        native_library.use_variant(before)
    for found, truth in pairs:
        assert found.shape == truth.shape
        if truth.numel():
            atol = 1e-10 * max(1.0, float(truth.detach().abs().max()))
            torch.testing.assert_close(found, truth.detach(), rtol=0, atol=atol)


def test_two_thousand_atoms():
    settings = SETTINGS["ani1x"]
    rng = np.random.default_rng(10)
    grid = np.stack(np.meshgrid(*[np.arange(13)] * 3), -1).reshape(-1, 3)[:2000] * 2.0
    x = grid + rng.uniform(-0.4, 0.4, grid.shape)
    conformers = Conformers(rng.choice([1, 6, 8], 2000), x, [0, 2000])
    batch = Batch.of(conformers, settings.elements, torch.float64)
    assert_close(
        native.aev(settings, batch, batch.coordinates, None),
        reference.aev(settings, batch, batch.coordinates, None),
    )


def test_dense_neighbourhoods_fill_several_blocks_of_triples(variant):
    settings = replace(SETTINGS["ani1x"], angular_cutoff=5.2)
    conformers = random_conformers(np.random.default_rng(11), [150], "HC", 0.5, density=0.4)
    batch, g, v, w = inputs(conformers, settings)
    aevs, gradients, along = reference_derivatives(settings, batch, g, v, w)
    assert_close(native.aev(settings, batch, batch.coordinates, None), aevs)
    assert_close(native.vjp(settings, batch, batch.coordinates, None, g)[0], gradients[0])
    assert_close(native.jvp(settings, batch, batch.coordinates, None, v), along)


def empty():
    return Conformers(np.zeros(0), np.zeros((0, 3)), [0])


def test_an_empty_batch_and_a_lone_atom():
    settings = SETTINGS["ani1x"]
    batch = Batch.of(empty(), settings.elements)
    assert native.aev(settings, batch, batch.coordinates, None).shape == (0, settings.length)
    g = torch.zeros(0, settings.length)
    assert native.vjp(settings, batch, batch.coordinates, None, g)[0].shape == (0, 3)
    lone = Batch.of(Conformers([8], [[1.0, 2, 3]], [0, 1]), settings.elements)
    assert not native.aev(settings, lone, lone.coordinates, None).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("system", ["ragged", "large", "cells"])
def test_coordinates_that_are_not_finite_name_the_conformer(system, bad):
    settings = SETTINGS["ani1x"]
    conformers = SYSTEMS[system](np.random.default_rng(12))
    batch = Batch.of(conformers, settings.elements)
    x = batch.coordinates.clone()
    m = 2
    row = int(batch.rows[int(conformers.offsets[m]) + 1])
    x[row, 1] = bad
    with pytest.raises(DataError, match=r"atom 1 of conformer 2 has coordinates .*finite"):
        native.aev(settings, batch, x, batch.cells)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("system", ["ragged", "large"])
def test_huge_coordinates_are_refused_and_smaller_ones_give_numbers(system, dtype):
    settings = SETTINGS["ani1x"]
    conformers = SYSTEMS[system](np.random.default_rng(12))
    batch = Batch.of(conformers, settings.elements, dtype)
    g = torch.ones(len(batch.species), settings.length, dtype=dtype)
    row = batch.rows[int(conformers.offsets[2]) + 1]
    for size in (1.1e15, 3e38, -3e38):
        x = batch.coordinates.clone()
        x[row, 1] = size
        with pytest.raises(DataError, match=r"conformer 2 has coordinates .*finite"):
            native.aev(settings, batch, x, None)
        with pytest.raises(DataError, match=r"conformer 2 has coordinates .*finite"):
            native.vjp(settings, batch, x, None, g)
    for size in (1e9, 9.9e14, -9.9e14):
        x = batch.coordinates.clone()
        x[row] = size
        for found in (
            native.aev(settings, batch, x, None),
            *native.vjp(settings, batch, x, None, g),
        ):
            assert found is None or found.isfinite().all()
        assert not native.aev(settings, batch, x, None)[row].any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda cells: cells.fill_(torch.nan), "cell of conformer 0 .* finite"),
        (lambda cells: cells[0].fill_(1.0), "conformer 0"),
        (lambda cells: cells[1].zero_(), "conformer 1"),
        (lambda cells: cells[0].mul_(1e-4), "conformer 0 has a cell so small or so flat"),
    ],
)
def test_cells_that_cannot_be_name_the_conformer(spoil, message):
    settings = SETTINGS["ani1x"]
    batch = Batch.of(mixed_cells(np.random.default_rng(13)), settings.elements)
    cells = batch.cells.clone()
    spoil(cells)
    with pytest.raises(DataError, match=message):
        native.aev(settings, batch, batch.coordinates, cells)


def test_wrong_arguments_are_refused():
    settings = SETTINGS["ani1x"]
    batch = Batch.of(mixed_cells(np.random.default_rng(14)), settings.elements, torch.float64)
    x, cells = batch.coordinates, batch.cells
    with pytest.raises(DataError, match="has no cell"):
        native.aev(settings, batch, x, None)
    far = x.clone()
    far[batch.rows[0]] = 1e12
    with pytest.raises(DataError, match="conformer 0 has an atom too far outside"):
        native.aev(settings, batch, far, cells)
    with pytest.raises(SettingsError, match="coordinates have shape"):
        native.aev(settings, batch, x[1:], cells)
    with pytest.raises(SettingsError, match="cells have shape"):
        native.aev(settings, batch, x, cells[1:])
    with pytest.raises(SettingsError, match="float32 and float64"):
        native.aev(settings, batch, x.half(), cells)
    with pytest.raises(SettingsError, match="on the CPU"):
        native.aev(settings, batch, x.to("meta"), cells)
    with pytest.raises(SettingsError, match="gradient by the AEVs has shape"):
        native.vjp(settings, batch, x, cells, torch.zeros(3, 3))
    with pytest.raises(SettingsError, match="tangent has shape"):
        native.jvp(settings, batch, x, cells, torch.zeros(3, 3))
    for field in ("rows", "species"):
        spoiled = replace(batch, **{field: getattr(batch, field) + 1000})
        with pytest.raises(DataError, match="not consistent"):
            native.aev(settings, spoiled, x, cells)
    twice = batch.rows.clone()
    twice[0] = twice[1]
    with pytest.raises(DataError, match="no permutation"):
        native.aev(settings, replace(batch, rows=twice), x, cells)


@pytest.mark.parametrize("name", ["rows", "species", "offsets", "pbc"])
@pytest.mark.parametrize(
    "spoil",
    [lambda t: t.to("meta"), lambda t: t.to(torch.int32), lambda t: t[:-1], lambda t: t[None]],
    ids=["device", "dtype", "length", "dimensions"],
)
def test_arrays_that_the_library_cannot_read_are_refused(name, spoil):
    settings = SETTINGS["ani1x"]
    batch = Batch.of(mixed_cells(np.random.default_rng(14)), settings.elements)
    spoiled = replace(batch, **{name: spoil(getattr(batch, name))})
    with pytest.raises(SettingsError, match="batch"):
        native.aev(settings, spoiled, batch.coordinates, batch.cells)
    with pytest.raises(SettingsError, match="batch"):
        PreparedAEV(settings, spoiled, torch.float32)


def test_tensors_on_other_devices_are_refused():
    settings = SETTINGS["ani1x"]
    batch = Batch.of(mixed_cells(np.random.default_rng(14)), settings.elements)
    x, cells = batch.coordinates, batch.cells
    with pytest.raises(SettingsError, match="cells are on meta"):
        native.aev(settings, batch, x, cells.to("meta"))
    with pytest.raises(SettingsError, match="gradients by the AEVs are on meta"):
        native.vjp(settings, batch, x, cells, torch.zeros(len(x), settings.length, device="meta"))
    with pytest.raises(SettingsError, match="tangents are on meta"):
        native.jvp(settings, batch, x, cells, x.to("meta"))
    with pytest.raises(SettingsError, match="float32 and float64"):
        PreparedAEV(settings, batch, torch.float16)


@pytest.mark.parametrize("second", [10**3, 10**5, 9 * 10**7, -3])
@pytest.mark.parametrize("system", ["ragged", "large", "cells"])
def test_offsets_that_do_not_rise_are_refused(system, second):
    settings = SETTINGS["ani1x"]
    batch = Batch.of(SYSTEMS[system](np.random.default_rng(14)), settings.elements)
    offsets = batch.offsets.clone()
    offsets[1] = second
    with pytest.raises(DataError, match="not consistent"):
        native.aev(settings, replace(batch, offsets=offsets), batch.coordinates, batch.cells)


def test_a_stale_library_is_no_library(monkeypatch, tmp_path):
    """It lacks the functions: as one compiled from other sources would."""
    other = next(
        iter((Path(native_library.__file__).parents[1] / "networks").glob("_networks*.so")), None
    )
    if other is None:
        pytest.skip("no other library")
    shutil.copy(other, tmp_path / "_engine.so")
    native_library.library.cache_clear()
    monkeypatch.setattr(native_library, "__file__", str(tmp_path / "native.py"))
    try:
        with pytest.raises(SettingsError, match="other sources"):
            native_library.load()
        assert AEVComputer(SETTINGS["ani1x"], "auto").engine_name == "reference"
    finally:
        monkeypatch.undo()
        native_library.library.cache_clear()


def test_without_the_library_the_reason_and_the_way_out_are_named(monkeypatch, tmp_path):
    native_library.library.cache_clear()
    monkeypatch.setattr(native_library, "__file__", str(tmp_path / "native.py"))
    try:
        with pytest.raises(SettingsError, match=r"not compiled.*C\+\+ compiler"):
            AEVComputer(SETTINGS["ani1x"], "native")
        assert AEVComputer(SETTINGS["ani1x"], "auto").engine_name == "reference"
    finally:
        monkeypatch.undo()
        native_library.library.cache_clear()
    computer = AEVComputer(SETTINGS["ani1x"], "auto")
    assert computer.engine_name == "native"
    assert computer.engine_on("cuda") == "reference"
