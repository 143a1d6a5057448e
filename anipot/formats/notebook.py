"""State dicts that notebooks saved: ``torch.save(model.state_dict(), path)``.

The model is ``nn.Sequential(aev_computer, ani_model)`` as in TorchANI's tutorials, or whatever has
an AEV computer and plain networks in it, of any depth, with batch norm or dropout between. Keys are
such as ``0.EtaR`` and ``1.0.layers.0.weight``. The file holds no activation and no self energies:
they are given, or found from data.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from anipot import units
from anipot.aev.computer import AEVComputer
from anipot.aev.settings import AEVSettings
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.errors import DataError, PotentialError, SettingsError
from anipot.formats.mlatom import read_description
from anipot.formats.safe_reading import naming
from anipot.formats.state_dict.contents import pickled_text, read_state_dict
from anipot.formats.state_dict.model import (
    GivenConstants,
    GivenEnergies,
    ParsedModel,
    assemble,
    given_constants,
    names_elements,
    parse,
    self_energies_of,
)
from anipot.formats.state_dict.networks import EPSILON, Side
from anipot.networks.atomic import activations
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.base import Potential

log = logging.getLogger("anipot")

#: Most conformers of a data set on which the activation is chosen and self energies are fitted.
MOST_CONFORMERS = 2000

#: Networks that were trained leave less than this part of what self energies alone leave.
TRAINED = 0.8

#: A choice is called close where the next best error is not this much larger.
CLEAR = 1.1


def is_notebook(path: Path) -> bool:
    """Whether ``path`` is a file of ``torch.save`` (or looks like one that is cut short)."""
    return pickled_text(path) is not None


def read_notebook(
    path: str | Path,
    *,
    elements: str | Iterable[str] | None = None,
    activation: str | None = None,
    self_energies: GivenEnergies | None = None,
    output_unit: str = "hartree",
    radial_cutoff: float | None = None,
    angular_cutoff: float | None = None,
    data: Conformers | None = None,
    output_activation: str | None = None,
    batch_norm: Side | None = None,
    aev: GivenConstants | None = None,
    engine: str = "auto",
) -> Potential:
    """Read the state dict of a notebook's model, ready for use on the CPU.

    Arguments for what the file does not hold:

    - ``elements`` in the order of the networks, if these are numbered; H C N O for four networks;
    - ``activation`` of the hidden layers, and ``output_activation``, if the networks end in one;
    - ``self_energies`` in hartree, by symbol or in the order of the elements;
    - ``output_unit``: unit of the network output;
    - cutoffs in angstrom; by default one step beyond the last shift (5.2 and 3.5 for ANI-1x);
    - ``batch_norm`` "before" or "after" the activation, where the names of layers do not tell;
    - ``aev`` for a file of networks alone: "ani1x", "ani2x", a ``.params`` file of NeuroChem,
      AEVSettings, or a dictionary of all its constants, named as in AEVSettings or in ``.params``.

    A file of MLatom says all of this itself (see ``mlatom``); hints that are given go first.

    With ``data`` that has energies, activations and self energies that are not given are found from
    it: self energies by least squares of what the networks leave of the energies, the activation by
    which the mean absolute error is smallest. ``about`` has the error of each, and all that was
    assumed; a warning of the logger ``anipot`` says so too.

    Raises PotentialError, with the file and the reason, for what is missing, damaged or hostile,
    and DataError for data without energies, or of other elements.
    """
    path = Path(path)
    for name in (activation, output_activation):
        if name is not None and name not in activations:
            raise SettingsError(f"unknown activation {name!r}; known: {', '.join(activations)}")
    if batch_norm not in (None, "before", "after"):
        raise SettingsError(f"batch_norm must be 'before' or 'after', not {batch_norm!r}")
    output_unit = units.energy_unit(output_unit)
    file = read_state_dict(path)
    with naming(path, hints=True):
        mlatom = read_description(file)
        if mlatom is not None:
            elements = mlatom.elements if elements is None else elements
            aev = mlatom.aev if aev is None else aev
            self_energies = mlatom.self_energies if self_energies is None else self_energies
            activation = mlatom.activation if activation is None else activation
        in_order = isinstance(aev, AEVSettings)
        if isinstance(aev, str | Path | Mapping):
            given_aev = given_constants(aev)
            if elements is None and names_elements(aev):
                elements = given_aev.elements
            aev = given_aev
        found = parse(
            file.tensors,
            elements=elements,
            radial_cutoff=radial_cutoff,
            angular_cutoff=angular_cutoff,
            aev=aev,
            in_order=in_order,
        )
        networks = [n for member in found.members for n in member]
        if activation is None and all(n.linear for n in networks):
            activation = "celu"  # of no layer
        open_norm = (
            None if batch_norm else next(filter(None, (n.undecided() for n in networks)), None)
        )
        given = found.self_energies if self_energies is None else self_energies
        energies = None if given is None else self_energies_of(given, found.settings.elements)
        choice = _Choice(activation, output_activation, batch_norm)
        if data is None:
            _ask(found, choice, energies, open_norm)
    assumed = [*found.assumed, *file.assumed, *(mlatom.assumed if mlatom else [])]
    about: dict[str, Any] = {"source": f"state dict of a notebook, {path.name}"}
    if data is not None:
        sample = _sample(data, found.settings.elements)
        choices = _choices(choice, open_norm is not None)
        tried = _try(found, choices, energies, output_unit, sample, engine)
        if not tried:
            raise PotentialError(f"{path}: its networks give energies that are not finite")
        best = min(tried, key=lambda t: t.error)  # of equals the first, which is the simplest
        assumed += _findings(tried, best, energies is None, sample)
        about["errors_kcalmol"] = {str(t.choice): round(t.error, 4) for t in tried}
        choice, energies = best.choice, best.energies
    elif output_activation is None:
        assumed.append("no activation of the output")
    if any(n.normalized for n in networks):
        assumed.append(f"batch norm with eps={EPSILON:g}, folded into the layers")
    about["assumed"] = assumed
    log.warning("%s: not in the file, and taken to be: %s", path.name, "; ".join(assumed))
    assert energies is not None
    return assemble(found, found.networks(*choice), energies, output_unit, about, engine)


class _Choice(NamedTuple):
    """Properties of the networks that a state dict does not hold; None if not given."""

    activation: str | None
    output_activation: str | None
    side: Side | None

    def __str__(self) -> str:
        output = f", {self.output_activation} output" if self.output_activation else ""
        side = f", batch norm {self.side} the activation" if self.side else ""
        return f"{self.activation}{output}{side}"


class _Tried(NamedTuple):
    """A choice, with self energies for it and its mean absolute error on data, kcal/mol."""

    choice: _Choice
    energies: SelfEnergies
    error: float


def _ask(
    found: ParsedModel, choice: _Choice, energies: SelfEnergies | None, open_norm: str | None
) -> None:
    """Raise PotentialError with the keywords to give, where the file leaves something open."""
    lacking = []
    if choice.activation is None:
        lacking.append(f"activation='relu' (or {', '.join(a for a in activations if a != 'relu')})")
    if energies is None:
        example = ", ".join(f"{e!r}: ..." for e in found.settings.elements)
        lacking.append(f"self_energies={{{example}}} in hartree")
    if open_norm:
        lacking.append(
            f"batch_norm='before' or 'after' the activation (of {open_norm} the names do not tell)"
        )
    if lacking:
        raise PotentialError(
            f"a state dict does not hold everything; give {' and '.join(lacking)}, or give "
            "data=conformers with energies, from which this is found"
        )


def _choices(given: _Choice, undecided: bool) -> list[_Choice]:
    """Return the choices to try, the simplest first."""
    tried = [given.activation] if given.activation else list(activations)
    sides: list[Side | None] = [given.side]
    if undecided:
        sides = ["before", "after"]
    outputs = [given.output_activation] if given.output_activation else [None, "the same"]
    return [
        _Choice(activation, activation if output == "the same" else output, side)
        for output, side, activation in itertools.product(outputs, sides, tried)
    ]


def _try(
    found: ParsedModel,
    choices: list[_Choice],
    energies: SelfEnergies | None,
    output_unit: str,
    sample: Conformers,
    engine: str,
) -> list[_Tried]:
    """Each choice with its error on ``sample``; self energies that are None are fitted for each."""
    assert sample.energies is not None
    batch = Batch.of(sample, found.settings.elements, found.dtype, torch.device("cpu"))
    scale = units.energy_to_hartree(output_unit)
    tried = []
    with torch.inference_mode():
        aevs = AEVComputer(found.settings, engine)(batch)
        for choice in choices:
            members = found.networks(*choice)
            outputs = [batch.sum_atoms(networks(aevs, batch.counts)) for networks in members]
            left = sample.energies - torch.stack(outputs).mean(0).numpy() * scale
            if not np.isfinite(left).all():
                continue
            rest = replace(sample, energies=left)
            shifts = (
                SelfEnergies.fit(rest, found.settings.elements) if energies is None else energies
            )
            error = np.abs(left - shifts.of(sample)).mean() * units.HARTREE_TO_KCALMOL
            tried.append(_Tried(choice, shifts, float(error)))
    return tried


def _sample(data: Conformers, elements: tuple[str, ...]) -> Conformers:
    """Conformers with energies and of these elements, evenly spaced over the data."""
    usable = data.has("energies") & (data.composition(elements).sum(axis=1) == data.n_atoms)
    indices = np.flatnonzero(usable)
    if data.energies is None or not len(indices):
        raise DataError(
            f"data= has no conformer with an energy and of the elements {' '.join(elements)} alone"
        )
    places = np.linspace(0, len(indices) - 1, min(len(indices), MOST_CONFORMERS)).astype(int)
    return data.take(indices[places])


def _findings(tried: list[_Tried], best: _Tried, fitted: bool, sample: Conformers) -> list[str]:
    """Return notes on what was determined from data."""
    n = f"{len(sample):,} conformers of the data"
    others = sorted((t for t in tried if t is not best), key=lambda t: t.error)
    words = (
        f"activation {best.choice}, with a mean absolute error of {best.error:.3g} kcal/mol on {n}"
    )
    if others:
        words += f" (next best: {others[0].choice}, {others[0].error:.3g})"
        if others[0].error < CLEAR * best.error:
            words += "; the two are close, so give activation= if you know it"
    result = [words]
    if fitted:
        note = f" ({best.energies.note})" if best.energies.note else ""
        result.append(f"self energies, fitted to {n}{note}")
    assert sample.energies is not None
    alone = SelfEnergies.fit(sample, best.energies.elements)
    error = np.abs(sample.energies - alone.of(sample)).mean() * units.HARTREE_TO_KCALMOL
    if best.error > TRAINED * error:
        result.append(
            f"the networks say hardly more of the data than self energies alone ({error:.3g} "
            "kcal/mol): the order of the elements, the cutoffs or the data may not be those of the "
            "training"
        )
    return result
