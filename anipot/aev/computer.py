"""AEVComputer: one module for every engine, chosen by name or by what is available."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.errors import AnipotError, SettingsError
from anipot.registry import Registry

#: What an engine is: ``aev(settings, batch, coordinates, cells)`` -> (N, L) by row, differentiable
#: in coordinates (N, 3) and cells (B, 3, 3) or None, in angstrom.
AEVFunction = Callable[[AEVSettings, Batch, Tensor, Tensor | None], Tensor]


#: Engines by name. What is registered is a loader: it returns the engine's function, or raises
#: with the reason why the engine is not available.
engines: Registry[Callable[[], AEVFunction]] = Registry("AEV engine", "anipot.aev_engines")


@engines.register("native")
def _load_native() -> AEVFunction:
    from anipot.aev import native, native_library

    native_library.load()
    return native.aev


@engines.register("reference")
def _load_reference() -> AEVFunction:
    from anipot.aev import reference

    return reference.aev


@engines.register("torchani")
def _load_torchani() -> AEVFunction:
    from anipot.aev import torchani_engine

    torchani_engine.import_torchani()
    return torchani_engine.aev


@engines.register("torchani-cuda")
def _load_torchani_cuda() -> AEVFunction:
    from anipot.aev import torchani_engine

    torchani_engine.import_cuaev()
    return torchani_engine.aev_cuda


@engines.register("triton")
def _load_triton() -> AEVFunction:
    from anipot.aev import triton_engine

    triton_engine.load()
    return triton_engine.aev


#: Engines that ``"auto"`` tries, in this order. On a GPU ``AEVComputer.engine_on`` decides.
AUTO_ORDER: tuple[str, ...] = ("native", "reference")


def load_engine(name: str = "auto") -> tuple[str, AEVFunction]:
    """Return the name and function of an engine; of ``"auto"``, the first available.

    Raises SettingsError for an engine that is unknown, or not available, with the reason.
    """
    if name == "auto":
        for candidate in AUTO_ORDER:
            try:
                return candidate, engines[candidate]()
            except (AnipotError, ImportError, OSError):
                continue
        raise SettingsError(f"none of the AEV engines {', '.join(AUTO_ORDER)} is available")
    loader = engines[name]
    try:
        return name, loader()
    except (AnipotError, ImportError, OSError) as e:
        raise SettingsError(f"the AEV engine {name!r} is not available: {e}") from e


def engine_report() -> list[tuple[str, bool, str]]:
    """Return (name, available, reason why not, or "") of every engine."""
    report = []
    for name in engines:
        try:
            engines[name]()
            report.append((name, True, ""))
        except (AnipotError, ImportError, OSError) as e:
            report.append((name, False, str(e)))
    return report


class ElementSubset(NamedTuple):
    """AEVs of batches in which only some of the elements of an AEVComputer occur.

    All other columns of the full AEV are zero and are left out.
    """

    indices: tuple[int, ...]  # of the elements, rising
    symbols: tuple[str, ...]
    aev: AEVComputer
    place: Tensor  # (E,) int64: index of each of all elements among these; 0 for those absent
    columns: Tensor | None  # of the full AEV; None if no element is absent


class AEVComputer(torch.nn.Module):
    """Atomic environment vectors of a batch.

    ``settings`` holds the constants. ``engine`` is ``"auto"`` or the name of a registered engine;
    ``engine_name`` is the one in use. All engines give the same numbers. The module has no
    parameters and adds nothing to a state_dict. Raises SettingsError for an engine that is unknown
    or not available.

    Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192.
    """

    def __init__(self, settings: AEVSettings, engine: str = "auto") -> None:
        super().__init__()
        self.settings = settings
        self.engine_name, self._aev = load_engine(engine)
        self._auto = engine == "auto"
        self._key = json.dumps(settings.to_dict())  # for operators, which take text

    def engine_on(self, device: torch.device | str) -> str:
        """Name of the engine in use on a device.

        ``"auto"`` is the native one only on the CPU, and elsewhere the Triton engine where that
        agrees with the reference engine, which is used where it does not.
        """
        device = torch.device(device)
        if not self._auto or device.type == "cpu":
            return self.engine_name
        from anipot.aev import triton_engine

        return "reference" if triton_engine.why_unusable(device) else "triton"

    @property
    def length(self) -> int:
        """Columns of an AEV: 384 for ANI-1x, 1008 for ANI-2x."""
        return self.settings.length

    def forward(
        self, batch: Batch, coordinates: Tensor | None = None, cells: Tensor | None = None
    ) -> Tensor:
        """(N, length) AEVs, a row for each row of the batch, in the precision of the coordinates.

        ``coordinates`` (N, 3) by row and ``cells`` (B, 3, 3), in angstrom, stand in for the batch's
        own, where derivatives are wanted or the geometry is another; the AEVs are differentiable in
        both. Raises DataError, with the conformer's number, for numbers that are not finite and for
        a flat or missing cell; SettingsError for a batch made with other elements, or a wrong
        shape.
        """
        if not isinstance(batch, Batch):
            raise SettingsError(
                f"a Batch is expected, not {type(batch).__name__}; make one with "
                "Batch.of(conformers, elements)"
            )
        if len(batch.counts) != self.settings.n_elements:
            raise SettingsError(
                f"the batch was made for {len(batch.counts)} elements, the AEV settings have "
                f"{self.settings.n_elements} ({' '.join(self.settings.elements)}); make the "
                "batch with the elements of the settings"
            )
        coordinates = batch.coordinates if coordinates is None else coordinates
        cells = batch.cells if cells is None else cells
        for name, given in (("coordinates", coordinates), ("cells", cells)):
            if given is not None and not (isinstance(given, Tensor) and given.is_floating_point()):
                kind = given.dtype if isinstance(given, Tensor) else type(given).__name__
                raise SettingsError(f"{name} must be a tensor of float32 or float64, not {kind}")
        if coordinates.shape != batch.coordinates.shape:
            raise SettingsError(
                f"coordinates have shape {tuple(coordinates.shape)}, the batch needs "
                f"{tuple(batch.coordinates.shape)}, by row"
            )
        if cells is not None and cells.shape != (len(batch), 3, 3):
            raise SettingsError(
                f"cells have shape {tuple(cells.shape)}, the batch needs {(len(batch), 3, 3)}"
            )
        name = self.engine_on(coordinates.device)
        if name == "native" and torch.compiler.is_compiling():
            from anipot.aev import operators

            rest = (batch.offsets, batch.rows, batch.species, batch.pbc, self._key)
            found: Tensor = operators.aev(coordinates, cells, *rest)
            return found
        aev = self._aev if name == self.engine_name else engines[name]()
        return aev(self.settings, batch, coordinates, cells)

    def vjp(self, batch: Batch, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gradients of ``gradient . AEV`` by coordinates (N, 3) and cells (B, 3, 3), or None.

        ``gradient`` (N, length) is that of an energy by the AEVs; the result, in its unit per
        angstrom, is differentiable in it and in nothing else, so that a loss on forces needs no
        derivative of AEVs beyond the first with the native engine.
        """
        engine = self.engine_on(gradient.device)
        if engine == "native":
            from anipot.aev import native

            return native.vjp(self.settings, batch, batch.coordinates, batch.cells, gradient)
        if engine == "triton":
            from anipot.aev import triton_engine

            by_coordinates = triton_engine.vjp(self.settings, batch, gradient)
            if by_coordinates is not None:
                return by_coordinates, None if batch.cells is None else torch.zeros_like(
                    batch.cells
                )
        with torch.enable_grad():
            variables = [batch.coordinates.detach().requires_grad_()]
            if batch.cells is not None:
                variables.append(batch.cells.detach().requires_grad_())
            aevs = self(batch, *variables)
            found = torch.autograd.grad(
                aevs,
                variables,
                gradient,
                create_graph=gradient.requires_grad,
                allow_unused=True,
                materialize_grads=True,
            )
        return found[0], found[1] if len(found) > 1 else None

    def subset(self, elements: Sequence[int], device: torch.device | None = None) -> ElementSubset:
        """Return the AEVs of batches with these ``elements`` (indices, rising) only."""
        settings, columns = self.settings, None
        if len(elements) < settings.n_elements:
            columns = torch.as_tensor(settings.columns(elements), device=device)
            settings = settings.with_elements([settings.elements[e] for e in elements])
        place = torch.zeros(self.settings.n_elements, dtype=torch.int64, device=device)
        place[list(elements)] = torch.arange(len(elements), device=device)
        computer = AEVComputer(settings, "auto" if self._auto else self.engine_name)
        return ElementSubset(tuple(elements), settings.elements, computer, place, columns)

    def extra_repr(self) -> str:
        elements = " ".join(self.settings.elements)
        return f"{elements}, length={self.length}, engine={self.engine_name!r}"
