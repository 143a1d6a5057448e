"""Build potentials from the tensors of a state dict, of TorchANI, MLatom or a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.elements import parse_elements, symbols_of
from anipot.errors import PotentialError, SettingsError
from anipot.formats.neurochem_constants import CUTOFFS, read_params
from anipot.formats.state_dict.contents import CONSTANTS, cutoff, element_count, take_constants
from anipot.formats.state_dict.module_names import arrange, order_is_lost, restored
from anipot.formats.state_dict.networks import Network, Side, find_networks
from anipot.networks.atomic import AtomicNetworks
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential
from anipot.potential.ensemble import ANIEnsemble
from anipot.potential.model import ANIModel

#: Self energies, hartree, as a user gives them: by symbol, or in the order of the elements.
GivenEnergies = Mapping[str, float] | Sequence[float] | np.ndarray | SelfEnergies

#: Names of constants in ``.params`` files, and those that are one value and not a list.
_FIELDS = {**CONSTANTS, **CUTOFFS, "Atyp": "elements"}
_SUFFIX = ".params"
_SINGLE = ("elements", "radial_cutoff", "angular_cutoff")

#: Constants of the AEV, as a user gives them: by name, in a ``.params`` file, or one by one.
GivenConstants = str | Path | Mapping[str, Any] | AEVSettings


@dataclass(frozen=True)
class ParsedModel:
    """Contents of a state dict; the networks of each member in the order of the elements.

    ``self_energies`` (E,) hartree, None if there are none. ``assumed``: notes on values that are
    not in the file and were assumed.
    """

    settings: AEVSettings
    members: list[list[Network]]
    self_energies: np.ndarray | None
    assumed: tuple[str, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Highest precision of any weight."""
        tensors = (
            t for m in self.members for n in m for x in n.modules for t in x.tensors.values()
        )
        return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32

    def networks(
        self,
        activation: str | None,
        output_activation: str | None = None,
        side: Side | None = None,
    ) -> list[AtomicNetworks]:
        """Build the networks of every member; a state dict does not hold their activations."""
        assert activation is not None
        result = []
        elements = self.settings.elements
        for member in self.members:
            linears = {e: n.linears(side) for e, n in zip(elements, member, strict=True)}
            hidden = {e: [len(x.weight) for x in layers[:-1]] for e, layers in linears.items()}
            with torch.device("meta"):  # no random weights, which would move the random state
                networks = AtomicNetworks(
                    elements,
                    self.settings.length,
                    hidden,
                    activation,
                    output_activation=output_activation,
                )
            weights = {
                f"{e}.layers.{k}.{kind}": value.to(self.dtype).clone()
                for e, layers in linears.items()
                for k, layer in enumerate(layers)
                for kind, value in layer._asdict().items()
            }
            networks.load_state_dict(weights, assign=True)
            result.append(networks)
        return result


def parse(
    tensors: Mapping[str, Tensor],
    *,
    elements: str | Iterable[str] | None = None,
    radial_cutoff: float | None = None,
    angular_cutoff: float | None = None,
    aev: AEVSettings | None = None,
    in_order: bool = True,
) -> ParsedModel:
    """Find AEV constants, networks and self energies in a state dict.

    ``elements`` in the order of the networks, where these have no names; cutoffs in angstrom, which
    TorchANI never saves; ``aev`` in place of constants that are not there, with the
    elements ``in_order`` of networks without names. Raises PotentialError
    that names what is missing or does not go together, and the keyword that mends it.
    """
    tensors = dict(tensors)
    constants = take_constants(tensors)
    saved_energies: Tensor | None = None
    numbers: Tensor | None = None
    for name in list(tensors):
        last = name.split(".")[-1]
        if last == "self_energies":
            saved_energies = tensors.pop(name)
        elif last == "atomic_numbers":
            numbers = tensors.pop(name)
        elif last == "conv_tensor":
            del tensors[name]
    lost = order_is_lost(list(tensors))
    networks = find_networks(restored(tensors) if lost else tensors)
    if not networks:
        raise PotentialError(
            "it holds an AEV computer but no networks; save the state dict of the whole model"
            if constants
            else "it holds neither an AEV computer nor networks; it is no state dict of a potential"
        )
    assumed: list[str] = []
    values: dict[str, Any] = dict(constants)
    if constants and aev is not None:
        raise SettingsError("aev= is for files without AEV constants, and this one has its own")
    if aev is not None:
        values = aev.to_dict()
        del values["elements"]
    elif not constants:
        raise PotentialError(
            "it holds networks but no AEV constants (EtaR, ShfR, ...); give aev='ani1x', 'ani2x', "
            "a .params file or an AEVSettings, or save the whole nn.Sequential(aev_computer, "
            "ani_model)"
        )
    for keyword, shifts, wish in (
        ("radial_cutoff", "radial_shifts", radial_cutoff),
        ("angular_cutoff", "angular_shifts", angular_cutoff),
    ):
        if wish is not None:
            values[keyword] = wish
        elif keyword not in values:
            values[keyword] = cutoff(values[shifts], keyword)
            assumed.append(
                f"{keyword} {values[keyword]:g} angstrom, one step beyond its evenly spaced shifts"
            )
    try:
        count = _count(values, networks)
        AEVSettings(elements=("H",), **values)
    except SettingsError as e:  # the file's constants make no AEV, or the cutoffs given do not
        raise PotentialError(str(e)) from None
    members, named = arrange(networks, count, lost)
    if aev is not None and in_order and elements is None and (named, numbers) == (None, None):
        elements = aev.elements if aev.n_elements == count else None
    symbols = _symbols(named, count, elements, numbers, assumed, lost)
    if lost and named is not None:  # back from the order of the names
        members = [[m[named.index(s)] for s in symbols] for m in members]
    settings = AEVSettings(elements=symbols, **values)
    if saved_energies is None:
        return ParsedModel(settings, members, None, tuple(assumed))
    if saved_energies.numel() != count:
        intercept = (
            "; an intercept cannot be represented" if saved_energies.numel() == count + 1 else ""
        )
        raise PotentialError(
            f"{saved_energies.numel()} self energies for {count} elements{intercept}"
        )
    energies = saved_energies.reshape(-1).double().numpy().copy()
    return ParsedModel(settings, members, energies, tuple(assumed))


def _count(values: Mapping[str, Any], networks: list[Network]) -> int:
    """Return the number of elements, from the length of the AEV."""
    constants = {k: v for k, v in values.items() if not k.endswith("cutoff")}
    for network in networks:
        if network.inputs != networks[0].inputs:
            raise PotentialError(
                f"{network.path} reads {network.inputs} values, but {networks[0].path} "
                f"{networks[0].inputs}; all networks read the AEV"
            )
    count = element_count(constants, networks[0].inputs)
    if count is None:
        raise PotentialError(
            f"{networks[0].path} reads {networks[0].inputs} values, and for no number of elements "
            "the AEV with these constants has that many"
        )
    if len(networks) % count:
        raise PotentialError(
            f"{len(networks)} networks, but the AEV of {networks[0].inputs} values that they read "
            f"is one of {count} elements"
        )
    return count


def _symbols(
    named: tuple[str, ...] | None,
    count: int,
    elements: str | Iterable[str] | None,
    numbers: Tensor | None,
    assumed: list[str],
    lost: bool,
) -> tuple[str, ...]:
    """Return the elements in the order of the AEV.

    ``named``: elements in the names of the networks, in that order unless it is ``lost``.
    """
    saved = None if numbers is None else tuple(symbols_of(numbers.reshape(-1).tolist()))
    wish = None if elements is None else parse_elements(elements)
    if lost and named is not None:
        order = saved or wish
        if order is None and count > 1:
            raise PotentialError(
                f"its tensors are sorted by name ({' '.join(named)}), and the order of the "
                "elements in the AEV is lost; give elements= in that order"
            )
        if order is not None and sorted(order) == sorted(named):
            named = order
    if saved is not None:
        if named is not None and saved != named:
            raise PotentialError(
                f"its atomic numbers are those of {' '.join(saved)}, but its networks are for "
                f"{' '.join(named)}"
            )
        named = saved
    if named is not None and wish is not None and wish != named:
        raise PotentialError(
            f"its networks are for {' '.join(named)}, in this order, but elements= says "
            f"{' '.join(wish)}"
        )
    result = named or wish
    if result is None and count == 4:
        result = ("H", "C", "N", "O")
        assumed.append("elements H C N O, in this order")
    if result is None:
        raise PotentialError(
            f"its {count} networks have no names; give elements= in their order, for example "
            "elements='HCNOSFCl'"
        )
    if len(result) != count:
        raise PotentialError(
            f"{len(result)} elements ({' '.join(result)}), but networks for {count}"
        )
    return result


def names_elements(given: str | Path | Mapping[str, Any]) -> bool:
    """Whether the constants given include the elements."""
    if isinstance(given, Mapping):
        return bool({"elements", "Atyp"} & set(given))
    return isinstance(given, Path) or given.endswith(_SUFFIX)


def given_constants(given: str | Path | Mapping[str, Any]) -> AEVSettings:
    """Return the AEV constants of a name, a ``.params`` file or a dictionary.

    Raises SettingsError for an unknown name and constants that make no AEV, PotentialError for a
    file that cannot be read.
    """
    if isinstance(given, Mapping):
        values = {_FIELDS.get(str(key), str(key)): value for key, value in given.items()}
        known = {f.name for f in fields(AEVSettings)}
        wrong = sorted(set(values) - known) or sorted(known - {"elements"} - set(values))
        if wrong:
            raise SettingsError(
                f"aev= needs {', '.join(sorted(known))} and nothing else (wrong or missing: "
                f"{', '.join(wrong)})"
            )
        lists = {
            k: v if k in _SINGLE or isinstance(v, list | tuple) else [v] for k, v in values.items()
        }
        try:
            return AEVSettings(**{"elements": ("H", "C", "N", "O"), **lists})  # type: ignore[arg-type]
        except (TypeError, ValueError) as e:
            raise SettingsError(f"aev=: {e}") from None
    if isinstance(given, Path) or given.endswith(_SUFFIX):
        return read_params(Path(given).expanduser())
    return AEVSettings.named(given)


def self_energies_of(given: GivenEnergies, elements: tuple[str, ...]) -> SelfEnergies:
    """Return self energies of ``elements``. Raises SettingsError if some are missing."""
    if isinstance(given, SelfEnergies):
        given = dict(zip(given.elements, given.values.tolist(), strict=True))
    if isinstance(given, Mapping):
        lacking = [e for e in elements if e not in given]
        if lacking:
            raise SettingsError(f"self_energies= has no value for {', '.join(lacking)}")
        given = [given[e] for e in elements]
    try:
        values = np.array([float(v) for v in given])
    except (TypeError, ValueError):
        raise SettingsError(
            f"self_energies= must be a number for each of {', '.join(elements)}, not {given!r}"
        ) from None
    if len(values) != len(elements):
        raise SettingsError(
            f"self_energies= has {len(values)} values for {len(elements)} elements "
            f"({' '.join(elements)})"
        )
    return SelfEnergies(elements, values)


def assemble(
    found: ParsedModel,
    networks: list[AtomicNetworks],
    energies: SelfEnergies,
    output_unit: str,
    about: dict[str, Any],
    engine: str,
) -> Potential:
    """Return an ANIModel, or an ANIEnsemble of several members, in evaluation mode."""
    aev = AEVComputer(found.settings, engine)
    elements = found.settings.elements
    members = [ANIModel(aev, n, energies, output_unit, trained=elements) for n in networks]
    if len(members) > 1:
        return ANIEnsemble(members, about).eval()
    members[0].about = about
    return members[0].eval()
