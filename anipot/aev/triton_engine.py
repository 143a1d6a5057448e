"""The Triton engine: AEVs, VJP and JVP on a GPU, in kernels without lists and synchronisations.

It is for molecules. A batch with periodic conformers, or with one of more than MOST_ATOMS atoms
(the kernels look at all pairs), is handed to the reference engine as a whole.

The kernels were checked with Triton's interpreter on a CPU, and compiled for NVIDIA GPUs of compute
capability 8.0 and 9.0. They have not been run on a GPU: so ``why_unusable`` compares them with the
reference engine before ``engine="auto"`` trusts them on a device, and nothing is claimed of their
speed.

Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192; see ``anipot.aev.reference``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from anipot.aev import derivatives, reference
from anipot.aev.derivatives import Kernels
from anipot.aev.geometry import check_finite, periodic_conformers
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.errors import SettingsError

#: Beyond so many atoms in a conformer, lists of neighbours should be faster than all pairs (the
#: number is a guess, not a measurement).
MOST_ATOMS = 256

#: Largest tile of AEV columns that one program holds in registers.
TILE = 1024

#: How far, relative to the largest number, float32 may be from the reference in ``why_unusable``.
AGREEMENT = 1e-4


def _interpreted() -> bool:
    """Whether kernels run on the CPU, in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def load() -> None:
    """Raise SettingsError, with the reason, unless the kernels can run on some device."""
    if importlib.util.find_spec("triton") is None:
        raise SettingsError(
            "triton is not installed; torch brings it on Linux with CUDA, else: pip install triton"
        )
    if not (torch.cuda.is_available() or _interpreted()):
        raise SettingsError(
            "there is no CUDA device (TRITON_INTERPRET=1 runs it on the CPU, for tests: it takes "
            "seconds for a molecule)"
        )


@lru_cache(maxsize=8)
def why_unusable(device: torch.device) -> str:
    """Why ``engine="auto"`` does not use this engine on a device; empty where it does.

    On a GPU AEVs, VJP and JVP of a few atoms must be those of the reference engine.
    """
    try:
        load()
        _check(device)
    except Exception as e:  # a compiler's, a driver's: whatever it is, there is another engine
        return str(e) or type(e).__name__
    return ""


def _check(device: torch.device) -> None:
    """Raise SettingsError unless the kernels give the reference's numbers on a device."""
    settings = AEVSettings.ani1x()
    generator = torch.Generator().manual_seed(0)
    n, sizes = 7, torch.tensor([0, 4, 1, 2])
    with torch.inference_mode(False), torch.enable_grad():
        rows = torch.arange(n)
        x = 2.0 * torch.rand(n, 3, generator=generator)
        conformer = torch.repeat_interleave(torch.arange(3), sizes[1:])
        batch = Batch(
            coordinates=x, species=torch.tensor([0, 0, 1, 1, 1, 2, 3]), counts=(2, 3, 1, 1),
            conformer=conformer, rows=rows, atoms=rows, offsets=sizes.cumsum(0), cells=None,
            pbc=None, index=torch.arange(3), data_atoms=rows,
        ).to(device)  # fmt: skip
        g = torch.randn(n, settings.length, generator=generator).to(device).requires_grad_()
        v = torch.randn(n, 3, generator=generator).to(device)
        x = batch.coordinates.requires_grad_()
        aevs = reference.aev(settings, batch, x, None)
        (gradient,) = torch.autograd.grad(aevs, x, g, create_graph=True)
        (along,) = torch.autograd.grad(gradient, g, v)
        wanted = {"AEVs": aevs, "gradients": gradient, "derivatives along a direction": along}
        x = x.detach()
        found = (
            _forward(settings, batch, x),
            _backward(settings, batch, x, g.detach()),
            _forward(settings, batch, x, v),
        )
    for (name, truth), ours in zip(wanted.items(), found, strict=True):
        truth = truth.detach()
        error = float((ours - truth).abs().max() / truth.abs().max())
        if not error <= AGREEMENT:  # NaN too
            raise SettingsError(
                f"its {name} differ from the reference engine's by {error:.1e} on {device}; please "
                "report this"
            )


@lru_cache(maxsize=32)
def _tables(
    settings: AEVSettings, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """(2, radial terms): eta, shift; (5, angular terms): eta, zeta, shift, cos, sin; pair index."""
    s, n = settings, settings.n_elements
    radial = [(eta, shift) for eta in s.radial_eta for shift in s.radial_shifts]
    angular = [
        (eta, zeta, shift, math.cos(angle), math.sin(angle))
        for eta in s.angular_eta
        for zeta in s.zeta
        for shift in s.angular_shifts
        for angle in s.angle_shifts
    ]
    pairs = [s.pair_index(a, b) for a in range(n) for b in range(n)]
    # What is kept must be ordinary tensors even when the first call is made in inference mode.
    with torch.inference_mode(False):
        return (
            torch.tensor(radial, dtype=dtype).T.contiguous().to(device),
            torch.tensor(angular, dtype=dtype).T.contiguous().to(device),
            torch.tensor(pairs, dtype=torch.int32).to(device),
        )


def block_sizes(settings: AEVSettings) -> dict[str, int]:
    """Powers of two that hold a block's columns, the elements, and the blocks of a program."""

    def power(n: int) -> int:
        return 1 << (n - 1).bit_length()

    angular = power(settings.angular_terms)
    return {
        "RADIAL_BLOCK": power(settings.radial_terms),
        "ANGULAR_BLOCK": angular,
        "ELEMENT_BLOCK": power(settings.n_elements),
        "PAIR_BLOCK": min(power(_pairs(settings)), max(TILE // angular, 1)),
    }


def constants(settings: AEVSettings, dtype: torch.dtype) -> dict[str, float]:
    """Compile-time constants of a kernel, besides ``block_sizes``."""
    return {
        "ELEMENTS": settings.n_elements,
        "PAIRS": _pairs(settings),
        "RADIAL_TERMS": settings.radial_terms,
        "ANGULAR_TERMS": settings.angular_terms,
        "RADIAL_CUTOFF": settings.radial_cutoff,
        "ANGULAR_CUTOFF": settings.angular_cutoff,
        "SHORTEST": reference.SHORTEST_SQUARED,
        "SMALLEST": torch.finfo(dtype).eps ** 2,
    }


def _pairs(settings: AEVSettings) -> int:
    return settings.n_elements * (settings.n_elements + 1) // 2


# ---- the three functions, without autograd and without checks ------------------------------------


def _in_order(batch: Batch, values: Tensor) -> Tensor:
    return values.detach().index_select(0, batch.rows)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _forward(
    settings: AEVSettings, batch: Batch, coordinates: Tensor, tangents: Tensor | None = None
) -> Tensor:
    """(N, L) AEVs, or their derivative along ``tangents`` (N, 3)."""
    from anipot.aev.triton_kernels import aev_kernel

    n, dtype, device = len(coordinates), coordinates.dtype, coordinates.device
    out = torch.empty(n, settings.length, dtype=dtype, device=device)
    if n == 0:
        return out
    x = _in_order(batch, coordinates)
    sizes = block_sizes(settings)
    grid = (n, -(-_pairs(settings) // sizes["PAIR_BLOCK"]))
    with _on(device):
        aev_kernel[grid](
            x, x if tangents is None else _in_order(batch, tangents.to(dtype)),
            _in_order(batch, batch.species), batch.rows, batch.conformer, batch.offsets, out,
            *_tables(settings, dtype, device), **constants(settings, dtype), **sizes,
            TANGENT=tangents is not None, num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return out


def _backward(settings: AEVSettings, batch: Batch, coordinates: Tensor, gradient: Tensor) -> Tensor:
    """(N, 3) gradient of ``gradient . AEV`` by the coordinates."""
    from anipot.aev.triton_kernels import vjp_kernel

    dtype, device = coordinates.dtype, coordinates.device
    out = torch.empty_like(coordinates, memory_format=torch.contiguous_format)
    if len(out) == 0:
        return out
    sizes = block_sizes(settings)
    del sizes["ELEMENT_BLOCK"], sizes["PAIR_BLOCK"]
    with _on(device):
        vjp_kernel[(len(out),)](
            _in_order(batch, coordinates), _in_order(batch, batch.species), batch.rows,
            batch.conformer, batch.offsets, gradient.detach().to(dtype).contiguous(), out,
            *_tables(settings, dtype, device), **constants(settings, dtype), **sizes,
            num_warps=1, enable_fp_fusion=True,
        )  # fmt: skip
    return out


#: Of conformers that are not periodic: there are no cells.
_KERNELS = Kernels(
    lambda settings, batch, x, cells: _forward(settings, batch, x),
    lambda settings, batch, x, cells, gradient, _: (_backward(settings, batch, x, gradient), None),
    lambda settings, batch, x, cells, tangent, _: _forward(settings, batch, x, tangent),
)


# ---- the public functions ------------------------------------------------------------------------


def _ready(batch: Batch, coordinates: Tensor, cells: Tensor | None) -> bool:
    """Whether the kernels are for this batch, after the checks of every engine.

    One look at the device, and none while a CUDA graph is captured: who captures must have checked.
    """
    if coordinates.dtype not in (torch.float32, torch.float64):
        raise SettingsError(
            f"the engine 'triton' takes float32 and float64, not {coordinates.dtype}"
        )
    device = coordinates.device
    if device.type != "cuda" and not _interpreted():
        raise SettingsError(
            f"the engine 'triton' works on CUDA devices, and the coordinates are on {device}; use "
            "engine='auto'"
        )
    if len(coordinates) == 0:
        return True
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return True
    facts = [torch.isfinite(coordinates).all().logical_not().long(), batch.n_atoms.max()]
    if batch.pbc is not None:
        facts.append(batch.pbc.any().long())
    not_finite, largest, *periodic = torch.stack(facts).tolist()
    if not_finite:
        check_finite(batch, coordinates, None)  # says where
    if any(periodic):
        periodic_conformers(batch, cells)  # raises where there is no cell
        return False
    return bool(largest <= MOST_ATOMS)


def aev(settings: AEVSettings, batch: Batch, coordinates: Tensor, cells: Tensor | None) -> Tensor:
    """(N, L) AEVs by row, L = ``settings.length``; no unit.

    ``coordinates`` (N, 3) by row and ``cells`` (B, 3, 3), in angstrom, stand in for the batch's
    own, and the AEVs are differentiable in both, twice (the second time through the reference
    engine). float32 or float64, as ``coordinates``; the same bits every time. Raises DataError,
    with the conformer's number, for numbers that are not finite and for a flat or missing cell;
    SettingsError on a device that is no GPU. While a CUDA graph is captured nothing is checked:
    coordinates that are not finite give NaN.
    """
    if not _ready(batch, coordinates, cells):
        return reference.aev(settings, batch, coordinates, cells)
    return derivatives.aev(_KERNELS, settings, batch, coordinates, None)


def vjp(settings: AEVSettings, batch: Batch, gradient: Tensor) -> Tensor | None:
    """(N, 3) gradient of ``gradient . AEV`` by the batch's coordinates, in 1/angstrom.

    ``gradient`` (N, L); the result is differentiable in it, by the JVP, and in nothing else. None
    where the kernels are not for this batch. Raises as ``aev``.
    """
    x = batch.coordinates.detach()
    if not _ready(batch, x, batch.cells):
        return None
    return derivatives.vjp(_KERNELS, settings, batch, x, None, gradient)[0]
