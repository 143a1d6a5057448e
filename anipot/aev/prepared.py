"""PreparedAEV: AEVs and their vector-Jacobian product of one system, again and again.

A step of molecular dynamics of a small molecule takes the native engine some tens of microseconds.
Checks, allocations and conversions of a general call would double that: here they are made once,
for atoms, elements and periodic directions that do not change.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from anipot.aev import native, native_library
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch


class PreparedAEV:
    """The native engine on one batch whose coordinates and cells change and nothing else.

    The caller writes ``coordinates`` (N, 3) by row and ``cells`` (B, 3, 3; None without cells), in
    angstrom, then calls ``forward``, writes ``gradient`` (N, L), and calls ``backward``. Arrays are
    in ``dtype`` and are the same ones in every step: what is to be kept must be copied. Raises
    SettingsError where the native engine is missing, or cannot read the batch.

    =========================  ==============  ===================================================
    array                      shape           meaning
    =========================  ==============  ===================================================
    ``aev``                    (N, L)          after ``forward``: AEVs by row, no unit
    ``gradient``               (N, L)          before ``backward``: gradient by the AEVs
    ``coordinate_gradient``    (N, 3)          after ``backward``: gradient by coordinates, by row
    ``cell_gradient``          (B, 3, 3)       after ``backward``: gradient by cells; None without
    =========================  ==============  ===================================================
    """

    def __init__(self, settings: AEVSettings, batch: Batch, dtype: torch.dtype) -> None:
        native_library.load()
        native.check_batch(batch, dtype)
        n = len(batch.species)
        self._batch = batch
        self._offsets = batch.offsets.contiguous()
        self._rows = batch.rows.contiguous()
        self._species = batch.species.contiguous()
        self._pbc = None
        self.coordinates = torch.zeros(n, 3, dtype=dtype, device="cpu")
        self.cells = self.cell_gradient = None
        if batch.pbc is not None and batch.pbc.any():
            self._pbc = batch.pbc.contiguous()
            self.cells = torch.zeros(len(batch), 3, 3, dtype=dtype, device="cpu")
            self.cell_gradient = torch.zeros(len(batch), 3, 3, dtype=dtype, device="cpu")
        self.aev = torch.zeros(n, settings.length, dtype=dtype, device="cpu")
        self.gradient = torch.zeros(n, settings.length, dtype=dtype, device="cpu")
        self.coordinate_gradient = torch.zeros(n, 3, dtype=dtype, device="cpu")
        self._settings = native_library.c_settings(settings)
        self._given = settings
        self._bad = ctypes.c_int64(-1)
        self._forward = self._call(native_library.FORWARD, aev=self.aev)
        self._backward = self._call(
            native_library.VJP,
            aev_gradient=self.gradient,
            coordinate_gradient=self.coordinate_gradient,
            cell_gradient=self.cell_gradient,
        )

    def _call(self, mode: int, **arrays: Tensor | None) -> native_library.Call:
        given: dict[str, Tensor | None] = {
            "offsets": self._offsets,
            "rows": self._rows,
            "species": self._species,
            "coordinates": self.coordinates,
            "cells": self.cells,
            "pbc": self._pbc,
            **arrays,
        }
        return native_library.Call(
            mode=mode,
            bytes=self.coordinates.element_size(),
            threads=1,
            clear=1,  # the numbers of the last call
            conformers=len(self._batch),
            atoms=len(self._species),
            **{k: v.data_ptr() for k, v in given.items() if v is not None},
        )

    def _run(self, call: native_library.Call) -> None:
        call.threads = torch.get_num_threads()
        status = native_library.run(self._settings, call, self._bad)
        if status != native_library.GOOD:
            native_library.raise_status(
                status, self._bad.value, self._given, self._batch, self.coordinates, self.cells
            )

    def forward(self) -> None:
        """Fill ``aev``. Raises DataError for numbers that are not finite, and for a flat cell."""
        self._run(self._forward)

    def backward(self) -> None:
        """Fill ``coordinate_gradient`` and ``cell_gradient`` with those of ``gradient . AEV``."""
        self._run(self._backward)
