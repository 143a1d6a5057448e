"""TorchANI's models, both ways, and files with their state dicts.

A state dict holds neither cutoffs nor cutoff function nor activation; what is assumed in their
place is told in ``about["assumed"]``. What anipot does not compute (other cutoff functions,
dispersion, repulsion, charges, shared networks) is refused with its name.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from anipot import units
from anipot.aev.torchani_engine import torchani_computer
from anipot.errors import PotentialError, SettingsError
from anipot.formats.safe_reading import naming
from anipot.formats.state_dict.contents import pickled_text, read_state_dict
from anipot.formats.state_dict.model import GivenEnergies, assemble, parse, self_energies_of
from anipot.networks.atomic import AtomicNet, Gaussian, make_activation
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential

log = logging.getLogger("anipot")

_NETWORK = rb"neural_networks\.(members\.)?(\d+\.)?(atomics\.)?[A-Z][a-z]?\."


# ---- files ---------------------------------------------------------------------------------------


def is_torchani(path: Path) -> bool:
    """Whether a file holds the state dict of a whole TorchANI model, of version 1 or 2."""
    text = pickled_text(path)
    return bool(text and b"energy_shifter.self_energies" in text and re.search(_NETWORK, text))


def read_torchani(
    path: str | Path,
    *,
    activation: str | None = None,
    self_energies: GivenEnergies | None = None,
    output_unit: str = "hartree",
    radial_cutoff: float | None = None,
    angular_cutoff: float | None = None,
    engine: str = "auto",
) -> Potential:
    """Read ``torch.save(model.state_dict(), path)`` of a model of TorchANI (``torchani.arch.ANI``,
    or one of ``torchani.models``; version 1 and 2), ready for use on the CPU.

    What the file does not hold is taken to be ``activation`` "celu" (alpha 0.1, as in all published
    ANI potentials), a cosine cutoff function, and the cutoffs where the evenly spaced shifts lead,
    unless given (angstrom); ``about["assumed"]`` of the potential says so. ``self_energies`` in
    hartree replace those of the file, which TorchANI keeps in float32.

    Raises PotentialError, with the file and the reason, for what is damaged or hostile, and for
    what anipot cannot compute.
    """
    path = Path(path)
    file = read_state_dict(path)
    tensors = file.tensors
    with naming(path, hints=True):
        for name in tensors:
            if extra := re.match(r"potentials\.(?!nnp\.)(\w+)\.", name):
                raise PotentialError(_extra(extra[1]))
            if "charge_networks." in name or ".shared." in name or ".embed." in name:
                raise PotentialError(
                    f"networks such as {name} (charges, shared layers) are not ANI's"
                )
            if tensors[name].ndim == 3 and name.endswith(".weight"):
                raise PotentialError(
                    f"{name} was packed by to_infer_model(); save the state dict before that call"
                )
        found = parse(tensors, radial_cutoff=radial_cutoff, angular_cutoff=angular_cutoff)
        if activation is None and not any(n.biased for m in found.members for n in m):
            raise PotentialError(
                "its networks have no biases, as those of TorchANI's simple_ani, which by default "
                "has GELU activations and a smooth cutoff function that anipot does not compute; "
                "give activation='gelu' if it was made with cutoff_fn='cosine'"
            )
        assumed = [*found.assumed, "a cosine cutoff function", *file.assumed]
        if activation is None:
            activation = "celu"
            assumed.append("activation celu (alpha 0.1)")
        given = found.self_energies if self_energies is None else self_energies
        if given is None:
            raise PotentialError("it has no self energies; give self_energies= by symbol, hartree")
        energies = self_energies_of(given, found.settings.elements)
        log.info("%s does not hold, and assumed is: %s", path.name, "; ".join(assumed))
        about = {"source": f"TorchANI state dict {path.name}", "assumed": assumed}
        networks = found.networks(activation)
        return assemble(found, networks, energies, output_unit, about, engine)


# ---- from TorchANI -------------------------------------------------------------------------------


def from_torchani(model: nn.Module, *, engine: str = "auto") -> Potential:
    """The anipot potential of a TorchANI 2 model (``torchani.arch.ANI``): its weights, bit by bit.

    An ``Ensemble`` of several active members becomes an ANIEnsemble. Constants of the AEV in
    float32 are the published ones, or the shortest decimals, with the same bits; those in float64
    are read as they are, so that a float64 model gives the same energies. The model is left as it
    is.

    Raises PotentialError for what anipot does not compute: other potentials (repulsion,
    dispersion), cutoff functions other than the cosine, other AEV terms, other networks.
    """
    _import_torchani()
    from torchani.arch import ANI

    if not isinstance(model, ANI):
        raise PotentialError(
            f"from_torchani takes models of torchani.arch.ANI, not {type(model).__name__}; of an "
            "nn.Sequential(aev_computer, ani_model), save the state dict and load it by anipot.load"
        )
    for name, potential in model.potentials.items():
        if name != "nnp" and potential._enabled:
            raise PotentialError(_extra(name))
    if not model.nnp._enabled:
        raise PotentialError("the networks of this model are switched off")
    radial_cutoff, angular_cutoff = _cutoffs(model.aev_computer)
    active, activation = _networks(model.neural_networks)
    tensors = {
        name.removeprefix("potentials.nnp."): tensor.detach().cpu()
        for name, tensor in model.state_dict().items()
        if name.startswith(("potentials.nnp.", "energy_shifter.")) or name == "atomic_numbers"
    }
    found = parse(tensors, radial_cutoff=radial_cutoff, angular_cutoff=angular_cutoff)
    if model.energy_shifter._enabled and found.self_energies is not None:
        energies = SelfEnergies(found.settings.elements, found.self_energies)
    else:
        energies = SelfEnergies.zero(found.settings.elements)
    all_networks = found.networks(activation)
    networks = [all_networks[k] for k in active]
    return assemble(found, networks, energies, "hartree", {"source": "a model of TorchANI"}, engine)


def _cutoffs(computer: Any) -> tuple[float, float]:
    """Radial and angular cutoff of an AEV computer whose terms anipot knows."""
    from torchani.aev import ANIAngular, ANIRadial
    from torchani.cutoffs import CutoffCosine

    for term, kind in ((computer.radial, ANIRadial), (computer.angular, ANIAngular)):
        if type(term) is not kind:
            raise PotentialError(f"AEV terms {type(term).__name__}; known: {kind.__name__}")
        if not isinstance(term.cutoff_fn, CutoffCosine):
            raise PotentialError(
                f"the cutoff function {type(term.cutoff_fn).__name__}, which anipot does not "
                "compute; known: CutoffCosine (cutoff_fn='cosine')"
            )
    return float(computer.radial.cutoff), float(computer.angular.cutoff)


def _networks(container: Any) -> tuple[list[int], str]:
    """Which members are active, and the activation of all networks."""
    from torchani.nn import ANINetworks, AtomicNetwork, Ensemble

    ensemble = type(container) is Ensemble
    activations: dict[str, str] = {}
    for member in container.members if ensemble else [container]:
        if type(member) is not ANINetworks:
            raise PotentialError(
                f"networks of the kind {type(member).__name__}; known: ANINetworks, and an "
                "Ensemble of them (before to_infer_model())"
            )
        for symbol, network in member.atomics.items():
            if type(network) is not AtomicNetwork:
                raise PotentialError(
                    f"the network of {symbol} is a {type(network).__name__}; known: AtomicNetwork"
                )
            activations[symbol] = _activation_name(network.activation)
    names = sorted(set(activations.values()))
    if len(names) > 1:
        raise PotentialError(f"activations {', '.join(names)}; all networks must have the same one")
    return list(container.active_members_idxs) if ensemble else [0], names[0]


def _activation_name(module: nn.Module) -> str:
    from torchani.nn import TightCELU

    if isinstance(module, TightCELU) or (isinstance(module, nn.CELU) and module.alpha == 0.1):
        return "celu"
    if isinstance(module, nn.GELU) and module.approximate == "none":
        return "gelu"
    for kind, name in (
        (nn.ReLU, "relu"),
        (nn.SiLU, "silu"),
        (nn.Tanh, "tanh"),
        (nn.Sigmoid, "sigmoid"),
        (Gaussian, "gaussian"),
    ):
        if isinstance(module, kind):
            return name
    raise PotentialError(f"the activation {module}, which anipot does not have")


def _extra(name: str) -> str:
    return (
        f"the model has another potential beside its networks, {name}, which anipot does not "
        "compute; without it the energies would be others"
    )


# ---- to TorchANI ---------------------------------------------------------------------------------


def to_torchani(potential: Potential) -> Any:
    """The same potential as a model of TorchANI 2 (``torchani.arch.ANI``), in evaluation mode.

    TorchANI's models take atomic numbers (B, n), -1 for no atom, and coordinates (B, n, 3) in
    angstrom, and give hartree. Constants are written in the precision of the networks, so that a
    float64 model agrees to 1e-9 hartree, and self energies in float64 always (TorchANI's own are in
    float32), so that total energies are. TorchANI knows hartree alone: where ``output_unit`` is
    another, the last layers are multiplied by the conversion, in float64 before they are rounded;
    all other weights have the same bits. Where the members of an ensemble differ in self energies,
    the model has their mean, and the rest goes into the last biases. Dropout, which does nothing in
    evaluation, is left out.

    Raises SettingsError for what TorchANI cannot express: an activation of the output, several
    values of eta or zeta, an angular cutoff that is not below the radial one, a repulsion.
    """
    _import_torchani()
    from torchani.arch import ANI
    from torchani.nn import ANINetworks, Ensemble
    from torchani.sae import SelfEnergy

    members = potential.models
    settings, elements = potential.aev.settings, potential.elements
    energies = np.mean([m.self_energies.values for m in members], axis=0)
    for member in members:
        if member.repulsion is not None:
            raise SettingsError(
                "the potential has a repulsion, and TorchANI's are others; without it the energies "
                "of close atoms would be others"
            )
        if member.trained and set(member.trained) != set(elements):
            untrained = [e for e in elements if e not in member.trained]
            log.warning(
                "the networks of %s are untrained, which TorchANI does not know",
                ", ".join(untrained),
            )
    containers = [
        ANINetworks(
            {
                e: _atomic_network(e, net, member.output_unit, float(shift))
                for (e, net), shift in zip(
                    member.networks.items(), member.self_energies.values - energies, strict=True
                )
            }
        )
        for member in members
    ]
    shifter = SelfEnergy(elements, energies.tolist())
    shifter.self_energies = torch.as_tensor(energies)
    model = ANI(
        elements,
        torchani_computer(settings, potential.dtype, torch.device("cpu")),
        Ensemble(containers) if len(containers) > 1 else containers[0],
        shifter,
    )
    return model.to(potential.device).eval()


def _atomic_network(element: str, net: Any, output_unit: str, shift: float) -> nn.Module:
    """TorchANI's network of one element; ``shift`` hartree are added to what it gives."""
    from torchani.nn import AtomicNetwork, TightCELU

    if not isinstance(net, AtomicNet):
        raise SettingsError(f"the network of {element} is none that TorchANI has")
    if net.output_activation is not None:
        raise SettingsError(
            f"the network of {element} has an activation of its output, {net.output_activation}, "
            "which TorchANI's networks cannot have"
        )
    activation = (
        TightCELU() if net.activation_name == "celu" else make_activation(net.activation_name)
    )
    with torch.random.fork_rng(devices=[]):  # its random weights are not to move the random state
        network: nn.Module = AtomicNetwork([net.aev_length, *net.hidden, 1], activation, bias=True)
    layers = [*network.get_submodule("layers").children(), network.get_submodule("final_layer")]
    network.to(next(net.parameters()).dtype)
    with torch.no_grad():
        for layer, source in zip(layers, net.layers, strict=True):
            for name, value in source.named_parameters():
                layer.get_parameter(name).copy_(value)
        scale = units.energy_to_hartree(output_unit)
        if scale != 1.0 or shift:
            last = net.layers[-1]
            layers[-1].get_parameter("weight").copy_(last.get_parameter("weight").double() * scale)
            bias = last.get_parameter("bias").double() * scale + shift
            layers[-1].get_parameter("bias").copy_(bias)
    return network


def _import_torchani() -> None:
    os.environ.setdefault("TORCHANI_NO_WARN_EXTENSIONS", "1")
    try:
        import torchani.arch  # noqa: F401
    except Exception as e:  # whatever goes wrong in there
        raise SettingsError(f"torchani cannot be imported: {e}") from e
