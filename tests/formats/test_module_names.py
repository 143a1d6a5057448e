"""Names and shapes of a state dict must agree: good layouts are read, branches are refused."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Sequence

import pytest
import torch
from torch import Tensor

from anipot.aev.settings import AEVSettings
from anipot.errors import PotentialError
from anipot.formats.state_dict.model import ParsedModel, parse
from anipot.formats.state_dict.module_names import order_is_lost

AEV = {e: AEVSettings.cover(e, 3.0, 2.5, 2, 1, 2) for e in ("H", "HC", "HCNO", "OCH")}
State = dict[str, Tensor]


def chain(path: str, widths: Sequence[int], step: int = 2) -> State:
    """An ``nn.Sequential`` with modules without tensors between the layers."""
    state = {}
    for k, (a, b) in enumerate(itertools.pairwise(widths)):
        state[f"{path}.{k * step}.weight"] = torch.randn(b, a)
        state[f"{path}.{k * step}.bias"] = torch.randn(b)
    return state


def linear(path: str, a: int, b: int) -> State:
    return {f"{path}.weight": torch.randn(b, a), f"{path}.bias": torch.randn(b)}


def read(state: State, elements: str = "HCNO", wish: str | None = None) -> ParsedModel:
    return parse(state, aev=AEV[elements], elements=wish)


def firsts(found: ParsedModel) -> list[list[str]]:
    """The name of the first layer of each network, by member and element."""
    return [[n.path for n in member] for member in found.members]


def networks(pattern: str, keys: Sequence[object], n: int, widths: Sequence[int] = (3, 1)) -> State:
    state: State = {}
    for key in keys:
        state |= chain(pattern.format(key), [n, *widths])
    return state


def joined(states: Iterable[State]) -> State:
    return {name: tensor for state in states for name, tensor in state.items()}


N = AEV["HCNO"].length

GOOD: dict[str, tuple[State, str | None, Sequence[str]]] = {
    "numbered": (networks("1.{}", range(4), N), None, "HCNO"),
    "with a class around": (networks("1.{}.layers", range(4), N), None, "HCNO"),
    "behind the AEV computer": (networks("{}", range(1, 5), N), None, "HCNO"),
    "attributes with numbers": (networks("net{}", range(1, 5), N), None, "HCNO"),
    "symbols": (networks("1.{}.layers", "OHCN", N), None, "OHCN"),
    "symbols in words": (networks("net_{}", "OHCN", N), None, "OHCN"),
    "lower case": (networks("{}_net", "ohcn", N), None, "OHCN"),
    "names of elements": (
        networks("{}_net", ["oxygen", "hydrogen", "carbon", "nitrogen"], N), None, "OHCN",
    ),
    "atomic numbers": (networks("1.{}", [8, 1, 6, 7], N), None, "OHCN"),
    "other words, in the order of the file": (
        networks("{}.mlp", ["first", "second", "third", "fourth"], N), None, "HCNO",
    ),
    "layers that name the element": (
        joined(linear(f"fc1_{e}", N, 3) | linear(f"fc2_{e}", 3, 1) for e in "OHCN"), None, "OHCN",
    ),
    "other depths": (
        networks("1.{}.layers", [0, 1], N) | networks("1.{}.layers", [2, 3], N, (5, 4, 2, 1)),
        None, "HCNO",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", GOOD)
def test_layouts_that_are_read(kind):
    state, wish, elements = GOOD[kind]
    found = read(dict(state), wish=wish)
    assert found.settings.elements == tuple(elements)
    assert len(found.members) == 1
    assert [p for member in firsts(found) for p in member] == list(
        dict.fromkeys(k.rpartition(".")[0] for k in state if state[k].shape[-1] == N)
    )


def test_members_of_an_ensemble():
    """Of other widths and depths, too; and of one element."""
    one = networks("members.0.{}", "NOCH", N)
    two = networks("members.1.{}", "NOCH", N, (7, 4, 1))
    found = read(one | two)
    assert found.settings.elements == tuple("NOCH")
    assert [len(n.modules) for m in found.members for n in m] == [2] * 4 + [3] * 4
    found = read(networks("1.0.{}", range(4), N) | networks("1.1.{}", range(4), N))
    assert firsts(found)[1] == [f"1.1.{k}.0" for k in range(4)]
    n = AEV["H"].length
    found = read(networks("{}", range(3), n), "H", wish="H")
    assert len(found.members) == 3


def with_branch(branch: Callable[[str], State], elements: str = "HCNO") -> State:
    state: State = {}
    for k in range(len(elements)):
        state |= chain(f"1.{k}.layers", [AEV[elements].length, 3, 1]) | branch(f"1.{k}")
    return state


n_two, n_one = AEV["HC"].length, AEV["H"].length

BAD: dict[str, tuple[State, str, str]] = {
    "a shortcut from the AEV to the energy": (
        with_branch(lambda p: linear(f"{p}.skip", N, 1)), "HCNO", r"1\.0\.skip",
    ),
    "under another name": (
        with_branch(lambda p: linear(f"{p}.other", N, 1)), "HCNO", r"1\.0\.layers, 1\.0\.other",
    ),
    "where the number of networks fits two members": (
        with_branch(lambda p: linear(f"{p}.other", n_two, 1), "HC"), "HC", r"1\.0\.other",
    ),
    "of one element": (
        with_branch(lambda p: linear(f"{p}.other", n_one, 1), "H"), "H", r"1\.0\.other",
    ),
    "parallel branches": (
        networks("1.0.mlp{}", [1, 2], n_two) | networks("1.1.mlp{}", [1, 2], n_two), "HC",
        r"1\.0\.mlp1, 1\.0\.mlp2",
    ),
    "two chains for one element": (
        networks("1.H.{}", [0, 1], n_two) | networks("1.C.{}", [0, 1], n_two), "HC", r"1\.H\.0",
    ),
    "eight networks side by side for four elements": (
        networks("1.{}", range(8), N), "HCNO", r"1\.0, 1\.1",
    ),
    "other networks beside": (
        networks("energy.{}", "HCNO", N) | networks("charge.{}", "HCNO", N), "HCNO", "energy",
    ),
    "a residual block": (
        with_branch(lambda p: {}) | linear("1.3.res1", 1, 1), "HCNO", r"1\.3\.res1.*\(res\)",
    ),
    "a layer left over at the end": (
        networks("1.{}.layers", range(4), N) | linear("2", 1, 1), "HCNO", "left over",
    ),
    "a scale left over in each": (
        with_branch(lambda p: linear(f"{p}.out", 1, 1)), "HCNO", r"1\.0\.out is left over",
    ),
    "a shared trunk": (
        chain("1.trunk", [N, N]) | networks("1.heads.{}", range(4), N, (1,)), "HCNO", r"1\.trunk",
    ),
    "attention": (
        joined(
            linear(f"{e}.a", N, 3) | linear(f"{e}.query", 3, 3) | linear(f"{e}.z", 3, 1)
            for e in ("1.0", "1.1", "1.2", "1.3")
        ), "HCNO", r"1\.0\.query.*\(query\)",
    ),
    "networks of other names": (
        networks("1.{}.layers", [0, 1, 2], N) | linear("1.3.single", N, 1), "HCNO", r"1\.3\.single",
    ),
    "layers with no place for an element": (
        joined(linear(f"fc{k}", N, 3) | linear(f"fc{k + 1}", 3, 1) for k in (0, 2, 4, 6)), "HCNO",
        "fc0, fc1",
    ),
    "a bias missing in one layer": (
        {k: v for k, v in networks("1.{}", range(4), N).items() if k != "1.2.0.bias"}, "HCNO",
        r"1\.0\.0\.bias is there, but 1\.2\.0\.bias is not",
    ),
    "networks that are numbered with gaps": (
        networks("net{}", [0, 1, 3, 4], N), "HCNO", "no order",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("told", [False, True])
def test_what_is_no_chain_for_each_element_is_refused_by_name(kind, told):
    """Whether or not the elements are given."""
    state, elements, message = BAD[kind]
    with pytest.raises(PotentialError, match=message):
        read(dict(state), elements, wish=elements if told else None)


# ---- files that were sorted by name --------------------------------------------------------------


def test_layer_ten_comes_after_layer_two():
    """Deep networks of equal widths, whose layers could change places unseen."""
    state = networks("1.{}", range(4), N, (3, 3, 3, 3, 3, 3, 1))
    assert "1.0.10.weight" in state
    right = read(dict(state))
    for order in (sorted(state), list(reversed(state)), shuffled(state)):
        assert order_is_lost(order)
        again = read({k: state[k] for k in order})
        for a, b in zip(right.members[0], again.members[0], strict=True):
            assert [m.path for m in a.modules] == [m.path for m in b.modules]
    assert not order_is_lost(list(state))


def shuffled(state: State) -> list[str]:
    names = list(state)
    random.Random(1).shuffle(names)
    return names


def test_twelve_elements_sorted_by_name():
    settings = AEVSettings.cover("HCNOFPSKBIVW", 3.0, 2.5, 2, 1, 1)
    state = networks("1.{}", range(12), settings.length)
    found = parse({k: state[k] for k in sorted(state)}, aev=settings)
    assert firsts(found)[0] == [f"1.{k}.0" for k in range(12)]
    assert found.settings.elements == settings.elements


def test_elements_sorted_by_name_are_asked_for():
    state = networks("1.{}", "OCH", AEV["OCH"].length)
    ordered = {k: state[k] for k in sorted(state)}
    with pytest.raises(PotentialError, match=r"sorted by name \(C H O\).*give elements="):
        read(ordered, "OCH")
    found = read(ordered, "OCH", wish="OCH")
    assert firsts(found)[0] == ["1.O.0", "1.C.0", "1.H.0"]
    with pytest.raises(PotentialError, match="for C H O"):
        read(ordered, "OCH", wish="OCN")
    assert read(dict(state), "OCH").settings.elements == ("O", "C", "H")


def test_layers_whose_order_is_lost_are_refused():
    state: State = {}
    for k in range(4):
        for layer in (("zero", N, 3), ("one", 3, 3), ("two", 3, 3), ("end", 3, 1)):
            state |= linear(f"1.{k}.{layer[0]}", *layer[1:])
    assert len(read(dict(state)).members) == 1
    lost = dict(state)
    for k in range(4):  # one bias before its weight is enough to see it
        lost = {f"1.{k}.zero.bias": lost.pop(f"1.{k}.zero.bias"), **lost}
    lost = {k: lost[k] for k in sorted(lost, key=lambda n: (n[:3], list(state).index(n) // 2, n))}
    with pytest.raises(PotentialError, match=r"1\.0\.one and 1\.0\.two comes first is lost"):
        read(lost)


def test_numbers_that_go_down_are_refused():
    state: State = {}
    for k in range(4):
        state |= linear(f"1.{k}.0", N, 3) | linear(f"1.{k}.4", 3, 3) | linear(f"1.{k}.2", 3, 3)
        state |= linear(f"1.{k}.6", 3, 1)
    with pytest.raises(PotentialError, match=r"1\.0\.2 stands behind 1\.0\.4"):
        read(state)
