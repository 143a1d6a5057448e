"""SmallNetworks: networks of a small system in one compiled call, forward and backward.

For a handful of rows of each element, general matrix products cost many times what their
arithmetic does. The library does all elements and members in one call and reads each weight from
memory once. Beyond some rows, ``anipot.networks.stacked`` is faster.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from anipot.errors import AnipotError, SettingsError
from anipot.networks.atomic import AtomicNet
from anipot.system.compiled import load_library

#: Instruction sets for tests: the machine's best, the baseline, AVX2 where the machine has it.
BEST, BASE, AVX2 = 0, 1, 2

_INTERFACE = 1
_PAD = 16
_KINDS = ("", "relu", "celu", "gelu", "silu", "tanh", "sigmoid", "gaussian")


class _Networks(ctypes.Structure):
    _fields_ = (
        *[
            (name, ctypes.c_int32)
            for name in ("rows", "members", "hidden", "activation", "output_activation")
        ],
        *[
            (name, ctypes.c_void_p)
            for name in ("widths", "weights", "biases", "seeds", "x", "gradient", "out")
        ],
        ("out_stride", ctypes.c_int64),
    )


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    missing = (
        "the networks of small systems were not compiled; install a C++ compiler (GCC or "
        "Clang) and install anipot again"
    )
    return load_library(Path(__file__).parent, "_networks", missing, _declare)


def _declare(library: ctypes.CDLL) -> bool:
    if library.anipot_networks_interface() != _INTERFACE:
        return False
    library.anipot_networks.argtypes = [ctypes.c_void_p, *[ctypes.c_int32] * 4]
    return True


def available() -> bool:
    """Whether the compiled library is there."""
    try:
        _library()
    except (AnipotError, OSError):
        return False
    return True


def compiled(net: AtomicNet) -> bool:
    """Whether the library has the network's activations."""
    return net.activation_name in _KINDS and (net.output_activation or "") in _KINDS


class Weights:
    """Weights of one element's networks in K members of equal shape, as the library reads them.

    ``columns`` are those of the AEV that are given (None: all); ``seeds`` as in ``Stack``. Raises
    SettingsError for weights that are not finite, which the library does not propagate.
    """

    def __init__(
        self, nets: Sequence[AtomicNet], columns: Tensor | None, seeds: Sequence[float]
    ) -> None:
        one = nets[0]
        self.members, self.hidden = len(nets), len(one.hidden)
        self.activation = _KINDS.index(one.activation_name)
        self.output_activation = _KINDS.index(one.output_activation or "")
        self.weights: list[np.ndarray] = []
        self.biases: list[np.ndarray] = []
        for net in nets:
            layers = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
            for k, layer in enumerate(layers):
                weight, bias = layer.weight.detach(), layer.bias.detach()
                if k == 0 and columns is not None:
                    weight = weight[:, columns]
                if not bool(torch.isfinite(weight).all() and torch.isfinite(bias).all()):
                    raise SettingsError("a network has weights that are not finite numbers")
                last = k == len(layers) - 1
                self.weights.append(_padded(weight.t().numpy(), last))
                self.biases.append(_padded(bias.numpy(), last))
        length = one.aev_length if columns is None else len(columns)
        self.widths = np.array([length, *one.hidden], dtype=np.int32)
        self.seeds = np.array(seeds, dtype=np.float64)
        self.weight_pointers = np.array([w.ctypes.data for w in self.weights], dtype=np.uintp)
        self.bias_pointers = np.array([b.ctypes.data for b in self.biases], dtype=np.uintp)


def _padded(array: np.ndarray, last: bool) -> np.ndarray:
    """A copy, padded with zeros to whole vectors in the last axis (not the last layer's)."""
    if last:
        return np.ascontiguousarray(array).copy()
    width = -(-array.shape[-1] // _PAD) * _PAD
    size = int(np.prod(array.shape[:-1])) * width
    flat = np.zeros(size + 64 // array.itemsize, dtype=array.dtype)
    skip = -flat.ctypes.data % 64 // array.itemsize
    out = flat[skip : skip + size].reshape(*array.shape[:-1], width)
    out[..., : array.shape[-1]] = array
    return out


class SmallNetworks:
    """The networks of one system: all elements and members in one call.

    ``parts`` holds, for each element, its weights and the rows of ``aev`` (N, L) and ``gradient``
    (N, L) that are its atoms'; ``out`` (K, N) takes the atomic energies in the networks' units.
    All arrays stay where they are; a call reads ``aev`` and fills ``gradient`` and ``out``.
    """

    def __init__(
        self,
        parts: Sequence[tuple[Weights, slice]],
        aev: Tensor,
        gradient: Tensor | None,
        out: Tensor,
        variant: int = BEST,
    ) -> None:
        self._call = _library().anipot_networks
        self._keep = (list(parts), aev, gradient, out)
        self._count, self._bytes, self._variant = len(parts), aev.element_size(), variant
        self._nets = (_Networks * len(parts))()
        for net, (weights, rows) in zip(self._nets, parts, strict=True):
            net.rows = rows.stop - rows.start
            net.members, net.hidden = weights.members, weights.hidden
            net.activation = weights.activation
            net.output_activation = weights.output_activation
            net.widths = weights.widths.ctypes.data
            net.weights = weights.weight_pointers.ctypes.data
            net.biases = weights.bias_pointers.ctypes.data
            net.seeds = weights.seeds.ctypes.data
            net.x = aev[rows].data_ptr()
            net.gradient = None if gradient is None else gradient[rows].data_ptr()
            net.out = out[:, rows].data_ptr()
            net.out_stride = out.stride(0)
        self._pointer = ctypes.addressof(self._nets)

    def __call__(self) -> None:
        """Fill ``out`` and ``gradient``. Raises MemoryError."""
        status = self._call(
            self._pointer, self._count, self._bytes, torch.get_num_threads(), self._variant
        )
        if status == 1:
            raise SettingsError("a network has more than 32 hidden layers")
        if status:
            raise MemoryError("no memory for the networks of a small system")
