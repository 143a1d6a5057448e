"""The Triton engine against the reference: on a GPU, or on the CPU in Triton's interpreter."""

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import random_cell, random_conformers

from anipot.aev import AEVComputer, AEVSettings, reference, torchani_engine, triton_engine
from anipot.aev.computer import engine_report
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.errors import DataError, SettingsError

pytest.importorskip("triton", reason="no triton: pip install triton")

REFERENCE = reference.aev
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

#: Several values of every constant, none of their numbers a power of two.
MANY = AEVSettings(
    elements=("O", "H", "C"),
    radial_cutoff=4.4,
    angular_cutoff=2.9,
    radial_eta=(4.0, 16.0, 9.0),
    radial_shifts=(0.5, 1.2, 2.0, 2.9, 3.5),
    angular_eta=(3.0, 8.0),
    zeta=(1.0, 7.5, 32.0),
    angular_shifts=(0.7, 1.5),
    angle_shifts=(0.3, 0.9, 2.8),
)
SETTINGS = {"ani1x": AEVSettings.ani1x(), "many": MANY}


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    if DEVICE.type == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def without_reference(monkeypatch):
    def called(*_):
        raise AssertionError("the reference engine was called")

    monkeypatch.setattr(reference, "aev", called)


def of(conformers, settings, dtype=torch.float64):
    return Batch.of(conformers, settings.elements, dtype, DEVICE)


def small(settings=MANY, sizes=(1, 2, 4, 0, 3), dtype=torch.float64, seed=1):
    rng = np.random.default_rng(seed)
    return of(random_conformers(rng, sizes, settings.elements[:3]), settings, dtype)


def vectors(batch, settings):
    """A gradient by AEVs, and tangents of coordinates."""
    generator = torch.Generator().manual_seed(0)
    shapes = (len(batch.species), settings.length), (len(batch.species), 3)
    return [
        torch.randn(s, generator=generator, dtype=torch.float64)
        .to(batch.coordinates.dtype)
        .to(DEVICE)
        for s in shapes
    ]


def by_autograd(settings, batch, g, v):
    """AEVs, gradient and directional derivative: by autograd through the reference engine."""
    x = batch.coordinates.clone().requires_grad_()
    g = g.clone().requires_grad_()
    aevs = reference.aev(settings, batch, x, None)
    (gradient,) = torch.autograd.grad(aevs, x, g, create_graph=True)
    (along,) = torch.autograd.grad(gradient, g, v)
    return aevs.detach(), gradient.detach(), along


def by_kernels(settings, batch, g, v):
    x = batch.coordinates
    return (
        triton_engine._forward(settings, batch, x),
        triton_engine._backward(settings, batch, x, g),
        triton_engine._forward(settings, batch, x, v),
    )


def assert_close(found, truth, relative=1e-12):
    scale = float(truth.detach().abs().max())
    assert scale > 1e-3
    torch.testing.assert_close(found.detach(), truth.detach(), rtol=0, atol=relative * scale)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_functions_agree_with_the_reference(name, dtype):
    settings = SETTINGS[name]
    batch = small(settings, dtype=dtype)
    g, v = vectors(batch, settings)
    exact = replace(batch, coordinates=batch.coordinates.double())
    truth = by_autograd(settings, exact, g.double(), v.double())
    relative = 1e-12 if dtype == torch.float64 else 2e-5
    for found, true in zip(by_kernels(settings, batch, g, v), truth, strict=True):
        assert found.dtype == dtype
        assert_close(found.double(), true, relative)


def test_blocks_divided_among_programs_are_the_same_blocks(monkeypatch):
    batch = small(sizes=(1, 4))
    g, v = vectors(batch, MANY)
    whole = by_kernels(MANY, batch, g, v)
    # blocks of 36 columns fill 64 lanes: two of the six to a program
    monkeypatch.setattr(triton_engine, "TILE", 128)
    assert triton_engine.block_sizes(MANY)["PAIR_BLOCK"] == 2
    for a, b in zip(by_kernels(MANY, batch, g, v), whole, strict=True):
        assert torch.equal(a, b)


def test_coincident_and_collinear_atoms_and_those_at_a_cutoff():
    settings = SETTINGS["ani1x"]
    x = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 3.5], [1.75, 0, 0], [-1, 0, 0], [0, 5.2, 0.0]])
    batch = of(Conformers(np.array([6, 1, 1, 8, 1, 1]), x, np.array([0, 6])), settings)
    g, v = vectors(batch, settings)
    for found, true in zip(
        by_kernels(settings, batch, g, v), by_autograd(settings, batch, g, v), strict=True
    ):
        assert_close(found, true, 1e-11)


def test_training_on_forces_needs_no_other_engine(without_reference, monkeypatch):
    """The gradient of a function of forces by what the AEVs are multiplied with is a JVP."""
    computer = AEVComputer(MANY, "triton")
    batch = small(sizes=(3, 1))
    g, v = vectors(batch, MANY)
    g.requires_grad_()
    gradient, by_cells = computer.vjp(batch, g)
    assert by_cells is None
    (along,) = torch.autograd.grad(gradient, g, v)
    x = batch.coordinates.clone().requires_grad_()
    aevs = computer(batch, x)
    (plain,) = torch.autograd.grad(aevs, x, g.detach())
    monkeypatch.setattr(reference, "aev", REFERENCE)
    truth = by_autograd(MANY, batch, g.detach(), v)
    for found, true in zip((aevs, gradient, along), truth, strict=True):
        assert_close(found, true)
    assert torch.equal(plain, gradient)


def test_second_derivatives_are_those_of_the_reference():
    batch = small(sizes=(3,))
    weights = vectors(batch, MANY)[0]
    n = len(batch.species)

    def curvature(engine):
        x = batch.coordinates.clone().requires_grad_()
        energy = (engine(MANY, batch, x, None).square() * weights).sum()
        (gradient,) = torch.autograd.grad(energy, x, create_graph=True)
        (row,) = torch.autograd.grad(gradient.view(-1)[n], x)
        return row

    assert_close(curvature(triton_engine.aev), curvature(reference.aev))


def test_crystals_and_large_conformers_go_to_the_reference(monkeypatch):
    rng = np.random.default_rng(3)
    cells = np.stack([random_cell(rng, 4.0), random_cell(rng, 5.0)])
    pbc = np.array([[True, True, False], [False] * 3])
    conformers = random_conformers(rng, [3, 4], "HCO", cells=cells, pbc=pbc)
    computer = AEVComputer(MANY, "triton")
    batch = of(conformers, MANY)
    truth = reference.aev(MANY, batch, batch.coordinates, batch.cells)
    assert torch.equal(computer(batch), truth)
    g, _ = vectors(batch, MANY)
    _, by_cells = computer.vjp(batch, g)
    assert by_cells.abs().sum() > 0
    # cells of which none is periodic are no matter
    batch = replace(batch, pbc=torch.zeros_like(batch.pbc))
    gradient, by_cells = computer.vjp(batch, g)
    assert gradient.any()
    assert not by_cells.any()

    called = []
    plain = reference.aev
    monkeypatch.setattr(reference, "aev", lambda *a: called.append(1) or plain(*a))
    monkeypatch.setattr(triton_engine, "MOST_ATOMS", 3)
    batch = small(sizes=(4, 1))
    computer(batch)
    assert called == [1]


@pytest.mark.filterwarnings("ignore:invalid value")  # numpy's, in the interpreter
def test_numbers_that_are_not_finite():
    batch = small(sizes=(3, 2))
    bad = batch.coordinates.clone()
    bad[batch.rows[4], 1] = torch.inf
    with pytest.raises(DataError, match="atom 1 of conformer 1 has coordinates"):
        triton_engine.aev(MANY, batch, bad, None)
    # Where nothing can be checked, they are not taken for atoms far away.
    for number in (torch.inf, torch.nan):
        bad[batch.rows[4], 1] = number
        aevs = batch.conformer_order(triton_engine._forward(MANY, batch, bad))
        assert torch.isfinite(aevs[:3]).all()
        assert not torch.isfinite(aevs[4]).all()


def test_no_atoms():
    batch = small(sizes=(0, 0))
    computer = AEVComputer(MANY, "triton")
    assert computer(batch).shape == (0, MANY.length)
    assert computer.vjp(batch, torch.zeros(0, MANY.length, device=DEVICE).double())[0].shape == (
        0,
        3,
    )


def test_other_precisions_and_devices_are_errors(monkeypatch):
    batch = small(sizes=(2,))
    with pytest.raises(SettingsError, match=r"float32 and float64, not torch\.float16"):
        triton_engine.aev(MANY, batch, batch.coordinates.half(), None)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SettingsError, match="works on CUDA devices, and the coordinates are on cp"):
        triton_engine.aev(MANY, batch.to(torch.device("cpu")), batch.coordinates.cpu(), None)


# ---- which engine, and why -----------------------------------------------------------------------


@pytest.fixture
def fresh():
    triton_engine.why_unusable.cache_clear()
    yield
    triton_engine.why_unusable.cache_clear()


def test_auto_takes_it_on_a_gpu_only_where_it_agrees(fresh, monkeypatch):
    assert triton_engine.why_unusable(DEVICE) == ""
    with monkeypatch.context() as m:
        m.setattr(triton_engine, "why_unusable", lambda device: "")
        assert AEVComputer(MANY).engine_on("cuda") == "triton"
        assert AEVComputer(MANY).engine_on("cpu") in ("native", "reference")
        m.setattr(triton_engine, "why_unusable", lambda device: "its AEVs differ")
        assert AEVComputer(MANY).engine_on("cuda") == "reference"
        assert AEVComputer(MANY, "triton").engine_on("cuda") == "triton"


@pytest.mark.parametrize("wrong", [1e-3, float("nan")])
def test_kernels_that_disagree_are_noticed(fresh, monkeypatch, wrong):
    plain = reference.aev
    monkeypatch.setattr(triton_engine, "_backward", lambda s, b, x, g: x + wrong)
    monkeypatch.setattr(
        triton_engine, "_forward", lambda s, b, x, v=None: plain(s, b, x, None).detach()
    )
    assert "its gradients differ from the reference engine's" in triton_engine.why_unusable(DEVICE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_told(monkeypatch, fresh):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(SettingsError, match="'triton' is not available: there is no CUDA device"):
        AEVComputer(MANY, "triton")
    assert "no CUDA device" in triton_engine.why_unusable(torch.device("cuda"))
    assert AEVComputer(MANY).engine_on("cuda") == "reference"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ((_, available, reason),) = [row for row in engine_report() if row[0] == "triton"]
    assert not available
    assert "pip install triton" in reason


def test_torchani_cuda_says_what_it_lacks(monkeypatch):
    import torchani.csrc

    monkeypatch.setattr(torchani.csrc, "CUAEV_IS_INSTALLED", False)
    with pytest.raises(SettingsError, match="ani build-extensions"):
        AEVComputer(MANY, "torchani-cuda")
    batch = small(SETTINGS["ani1x"], sizes=(2,), dtype=torch.float32).to(torch.device("cpu"))
    with pytest.raises(SettingsError, match="takes float32 on CUDA devices"):
        torchani_engine.aev_cuda(SETTINGS["ani1x"], batch, batch.coordinates, None)


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from anipot.aev import AEVSettings, triton_engine, triton_kernels
settings, types = AEVSettings.ani1x(), {"pair_index": "*i32"}
types.update(dict.fromkeys(("species", "rows", "conformer", "offsets"), "*i64"))
for kernel, tangent in (("aev_kernel", False), ("aev_kernel", True), ("vjp_kernel", None)):
    kernel = getattr(triton_kernels, kernel)
    names = kernel.arg_names
    values = triton_engine.constants(settings, torch.float32) | triton_engine.block_sizes(settings)
    values["TANGENT"] = tangent
    source = ASTSource(
        kernel,
        {n: "constexpr" if n.isupper() else types.get(n, "*fp32") for n in names},
        {n: values[n] for n in names if n.isupper()},
    )
    target = GPUTarget("cuda", 80, 32)
    made = triton.compile(source, target, {"num_warps": 1, "enable_fp_fusion": True})
    assert len(made.asm["cubin"]) > 1000
    print(len(made.asm["cubin"]))
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu(tmp_path):
    """What the interpreter allows and the compiler does not would show here."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3
