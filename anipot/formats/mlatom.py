"""Read the description in files of MLatom's ANI models.

Such a file is a dictionary ``{"network", "args", "nn", "AEV_computer", ...}``.

``nn`` is a state dict, ``args`` a dictionary with the constants of the AEV, the elements in their
order and the self energies (hartree). The other entries are pickled objects and stay unread; only
the names of their classes are looked at, one of which is the activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from anipot.aev.settings import AEVSettings
from anipot.elements import parse_elements
from anipot.errors import AnipotError, PotentialError
from anipot.formats.neurochem_constants import CUTOFFS, LISTS
from anipot.formats.state_dict.contents import StateDict, check_tensor, written
from anipot.formats.state_dict.torch_file import Unread

#: In the order in which MLatom itself looks for them.
_ENERGIES = ("self_energies_train", "self_energies")

#: torch's classes of activations that have no numbers of their own.
_ACTIVATIONS = {"ReLU": "relu", "SiLU": "silu", "Tanh": "tanh", "Sigmoid": "sigmoid"}


class Description(NamedTuple):
    """Contents of ``args`` and of the names of classes; None where they hold nothing."""

    elements: tuple[str, ...] | None
    aev: AEVSettings | None
    self_energies: np.ndarray | None
    activation: str | None
    assumed: list[str]


def read_description(file: StateDict) -> Description | None:
    """Return the description in a file of MLatom; None for any other file.

    Raises PotentialError, naming the key, for values that cannot be used.
    """
    args = file.beside.get("args")
    if not isinstance(args, Mapping) or not {"species_order", *LISTS} & set(args):
        return None
    elements = aev = energies = None
    assumed = ["an MLatom model: energies in hartree"]
    if "species_order" in args:
        try:
            elements = parse_elements([_element(e) for e in _list(args, "species_order")])
        except (AnipotError, TypeError, ValueError) as e:
            raise PotentialError(f"args['species_order']: {str(e) or type(e).__name__}") from None
    if lacking := [k for k in (*CUTOFFS, *LISTS) if k not in args]:
        if len(lacking) < len(CUTOFFS) + len(LISTS):
            raise PotentialError(f"args lacks {', '.join(lacking)} of the constants of the AEV")
    else:
        lists = {name: written(name, _numbers(args, k)) for k, name in LISTS.items()}
        cutoffs = {name: round(_number(args, k), 7) for k, name in CUTOFFS.items()}
        try:
            aev = AEVSettings(elements or ("H",), **lists, **cutoffs)  # type: ignore[arg-type]
        except AnipotError as e:
            raise PotentialError(f"args: {e}") from None
    key = next((k for k in _ENERGIES if args.get(k) is not None), None)
    if key is not None:
        energies = _numbers(args, key).astype(float)
        if elements is not None and len(energies) != len(elements):
            raise PotentialError(
                f"args[{key!r}] has {len(energies)} values for {len(elements)} elements "
                f"({' '.join(elements)})"
            )
    learned = args.get("property")
    if isinstance(learned, str) and learned not in ("energy", "y"):
        assumed.append(f"its property {learned[:40]!r} is a total energy")
    activation, note = _activation(file)
    return Description(elements, aev, energies, activation, assumed + note)


def _activation(file: StateDict) -> tuple[str | None, list[str]]:
    """Return the activation of all unread modules (None if unknown), and a note on it."""
    prefix = "torch.nn.modules.activation."
    found = [c.removeprefix(prefix) for c in file.classes if c.startswith(prefix)]
    if len(found) != 1:
        return None, []
    name = _ACTIVATIONS.get(found[0])
    states = [m.state for m in _modules(file.beside) if m.name == prefix + found[0]]
    if found[0] == "CELU" and states and all(_has(s, "alpha", 0.1) for s in states):
        name = "celu"
    if found[0] == "GELU" and states and all(_has(s, "approximate", "none") for s in states):
        name = "gelu"
    return name, [f"activation {name}, after the class {found[0]} of its modules"] if name else []


def _has(state: Any, key: str, value: Any) -> bool:
    return isinstance(state, Mapping) and state.get(key) == value


def _modules(value: Any, depth: int = 12) -> Iterator[Unread]:
    """Yield the unread objects in a value, recursively."""
    if depth and isinstance(value, Unread):
        yield value
        value = value.state
    if depth and isinstance(value, Mapping):
        value = list(value.values())
    if depth and isinstance(value, list | tuple):
        for item in value:
            yield from _modules(item, depth - 1)


# ---- values --------------------------------------------------------------------------------------


def _list(args: Mapping[Any, Any], key: str) -> list[Any]:
    value = args[key]
    if not isinstance(value, list | tuple) or len(value) > 118:
        raise PotentialError("a list of symbols is expected")
    return list(value)


def _element(value: Any) -> str | int:
    """Return a symbol or an atomic number, which may be written as text."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() else value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise PotentialError(f"{type(value).__name__} is no element")


def _numbers(args: Mapping[Any, Any], key: str) -> np.ndarray:
    """Return a tensor or list of numbers as a flat array."""
    value = args[key]
    wrong = PotentialError(
        f"args[{key!r}] is no list of numbers; where the file was made, put one in its place "
        f"(d['args'][{key!r}] = [...]), save it again, or save d['nn'] alone"
    )
    if isinstance(value, Tensor):
        check_tensor(f"args[{key!r}]", value)
        value = value.detach().reshape(-1).numpy()
    else:
        flat = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in flat):
            raise wrong
        value = np.array(flat, float)
    if not len(value) or len(value) > 1000 or not np.isfinite(value).all():
        raise wrong
    return np.asarray(value)


def _number(args: Mapping[Any, Any], key: str) -> float:
    values = _numbers(args, key)
    if len(values) != 1:
        raise PotentialError(f"args[{key!r}] has {len(values)} numbers instead of one")
    return float(str(values[0]))
