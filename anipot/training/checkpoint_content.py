"""Checks of the content of a checkpoint against data of the same form."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from anipot.errors import shortly
from anipot.evaluation.history import EpochRecord


@dataclass(frozen=True)
class Each:
    """A list, with elements of one form."""

    like: Any


@dataclass(frozen=True)
class Either:
    """One of several forms."""

    forms: tuple[Any, ...]


@dataclass(frozen=True)
class Optional:
    """A value that a dictionary may lack."""

    like: Any


@dataclass(frozen=True)
class Anything:
    """A value that is not used."""


def fitting(found: Any, like: Any, where: str = "it") -> Any:
    """``found``, which must have the form of ``like``. Raises ValueError that says where it fails.

    A tensor stands for tensors of its shape and type in memory, which are finite; a number for
    numbers of its type, which are not negative where they are whole, and never NaN; a dictionary
    for dictionaries with its keys.
    """
    if isinstance(like, Anything):
        return found
    if isinstance(like, Either):
        reasons = []
        for form in like.forms:
            try:
                return fitting(found, form, where)
            except ValueError as e:
                reasons.append(e)
        raise reasons[-1]
    if isinstance(like, Each):
        if not isinstance(found, list):
            raise ValueError(f"{where} is not a list")
        return [fitting(f, like.like, f"{where}[{k}]") for k, f in enumerate(found)]
    if isinstance(like, Mapping):
        return _mapping(found, like, where)
    if isinstance(like, Tensor):
        return _tensor(found, like, where)
    wrong = type(found) is not type(like)
    wrong |= isinstance(found, float) and math.isnan(found)
    wrong |= isinstance(found, int) and found < 0
    if wrong:
        raise ValueError(f"{where} is {shortly(found, 80)}")
    return found


def training_form(
    networks: dict[str, Tensor],
    n_elements: int,
    optimizer: torch.optim.Optimizer,
    average: dict[str, Any] | None,
) -> dict[str, Any]:
    """The form of the checkpoints of a training, for ``fitting``.

    ``networks`` and ``average``: the state of the networks that are trained, and of their average.
    """
    known: dict[str, Any] = {}
    for field in fields(EpochRecord):
        if field.type == "int":
            known[field.name] = 0
        elif field.default is not MISSING:
            either = (False, True) if field.type == "bool" else (None, 0.0)
            known[field.name] = Optional(Either(either))
        else:
            known[field.name] = 0.0
    place = {
        "epoch": 0, "step": 0, "updates": 0, "loss_sum": 0.0, "seconds": 0.0, "best_error": 0.0,
        "best_weights": Either((None, networks)), "since_best": 0, "pending": Each(None),
        "history": {"epochs": Each(known), "stopped": "", "loss_unit": ""},
    }  # fmt: skip
    random = {
        "random": torch.get_rng_state(),
        "cuda_random": Either((None, Anything())),
    }
    return {
        **dict.fromkeys(("format", "fingerprint", "engine", "self_energies_note"), ""),
        "self_energies": torch.zeros(n_elements, dtype=torch.float64),
        "place": place,
        "networks": networks,
        "optimizer": {"state": _moments(optimizer), "param_groups": Anything()},
        "average": average,
        **random,
        "random_of_other_ranks": Optional(Each(random)),
    }


def _moments(optimizer: torch.optim.Optimizer) -> dict[int, Any]:
    """The form of an optimizer's state: what another one has of such parameters after an update.

    A parameter that no update has reached has none.
    """
    like = [torch.zeros_like(p) for group in optimizer.param_groups for p in group["params"]]
    for p in like:
        p.grad = torch.zeros_like(p)
    trial = type(optimizer)(like, fused=True)  # type: ignore[call-arg]
    trial.step()
    state: dict[int, Any] = trial.state_dict()["state"]
    return {number: Optional(moments) for number, moments in state.items()}


def _mapping(found: Any, like: Mapping[Any, Any], where: str) -> dict[Any, Any]:
    if not isinstance(found, Mapping):
        raise ValueError(f"{where} is {shortly(found, 80)}")
    if unknown := [key for key in found if key not in like]:
        raise ValueError(f"{where} has {shortly(unknown[0], 80)}, which is unknown")
    for key, form in like.items():
        if key not in found and not isinstance(form, Optional):
            raise ValueError(f"{where} has no {key!r}")
    forms = {k: form.like if isinstance(form, Optional) else form for k, form in like.items()}
    return {k: fitting(value, forms[k], f"{where}[{k!r}]") for k, value in found.items()}


def _tensor(found: Any, like: Tensor, where: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise ValueError(f"{where} is {shortly(found, 80)}")
    if found.layout != torch.strided or found.device.type == "meta":
        raise ValueError(f"{where} is a tensor without numbers")
    if found.shape != like.shape or found.dtype != like.dtype:
        raise ValueError(
            f"{where} is {tuple(found.shape)} {found.dtype} where {tuple(like.shape)} {like.dtype} "
            "is needed"
        )
    if found.is_floating_point() and not torch.isfinite(found).all():
        raise ValueError(f"{where} has numbers that are not finite")
    return found.detach()
