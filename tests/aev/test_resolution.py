"""The report of how AEV settings resolve data, against ASE's neighbour lists and hand-made data."""

from pathlib import Path

import ase
import numpy as np
import pytest
from ase.neighborlist import neighbor_list
from helpers import random_cell, random_conformers
from typer.testing import CliRunner

from anipot.aev import AEVComputer, AEVSettings
from anipot.aev.resolution import resolution
from anipot.cli.data import data_app
from anipot.data.batches import Batch
from anipot.data.conformers import Conformers
from anipot.elements import numbers_of, symbols_of
from anipot.errors import DataError, SettingsError


def random_data(periodic: bool) -> Conformers:
    rng = np.random.default_rng(0)
    cells = np.stack([random_cell(rng, length) for length in (4.0, 6.0, 7.0)]) if periodic else None
    return random_conformers(rng, [3, 9, 12], "HCO", cells=cells)


def frames(data: Conformers) -> list[ase.Atoms]:
    found = []
    for m in range(len(data)):
        own = slice(data.offsets[m], data.offsets[m + 1])
        cell = None if data.cells is None else data.cells[m]
        x = data.coordinates[own]
        found.append(ase.Atoms(data.atomic_numbers[own], x, cell=cell, pbc=cell is not None))
    return found


def line(x, symbols: str) -> Conformers:
    """Atoms along a line, as one conformer."""
    coordinates = np.zeros((len(x), 3))
    coordinates[:, 2] = x
    return Conformers(numbers_of(symbols), coordinates, np.array([0, len(x)]))


@pytest.mark.parametrize("periodic", [False, True])
def test_distances_and_neighbours_are_those_of_ase(periodic):
    data, settings = random_data(periodic), AEVSettings.cover("CHO", 4.5, 2.5)
    found = resolution(settings, data)
    distances: dict[tuple[str, str], list[float]] = {}
    counts: dict[tuple[str, float], list[int]] = {}
    for atoms in frames(data):
        for cutoff in (4.5, 2.5):
            i, j, r = neighbor_list("ijd", atoms, cutoff)
            for a, symbol in enumerate(atoms.symbols):
                counts.setdefault((symbol, cutoff), []).append(int((i == a).sum()))
            if cutoff == 4.5:
                for a, b, x in zip(i, j, r, strict=True):
                    pair = tuple(sorted((atoms.symbols[a], atoms.symbols[b])))
                    distances.setdefault(pair, []).append(x)
    assert {d.elements for d in found.distances} == set(distances)
    for d in found.distances:
        r = np.repeat(np.sort(distances[d.elements])[::2], 2)  # ASE lists every pair twice
        assert d.count == len(r) / 2
        assert (d.nearest, d.farthest) == pytest.approx((r.min(), r.max()))
        assert d.percentiles == pytest.approx(np.percentile(r[::2], (1, 50, 99)))
    assert found.nearest == pytest.approx(min(map(min, distances.values())))
    assert [c.element for c in found.centres] == ["C", "H", "O"]
    for c in found.centres:
        for (mean, most), cutoff in ((c.radial_neighbors, 4.5), (c.angular_neighbors, 2.5)):
            expected = counts[c.element, cutoff]
            assert (mean, most) == (pytest.approx(np.mean(expected)), max(expected))
            assert c.atoms == len(expected)


def test_columns_that_vary_are_those_of_the_aevs():
    data, settings = random_data(False), AEVSettings.ani1x("CHON")
    found = resolution(settings, data)
    batch = Batch.of(data, settings.elements)
    aevs = AEVComputer(settings, "reference")(batch).numpy()
    for k, centre in enumerate(found.centres):
        own = aevs[batch.species.numpy() == k]
        varies = np.ptp(own, axis=0) > 1e-6
        assert abs(centre.varying - varies.sum()) <= 2  # single precision, near the threshold
        silent = set(centre.silent)
        assert {"N", "CN", "HN", "ON", "NN"} <= silent  # there is no nitrogen
        blocks = 16 * sum(len(s) == 1 for s in silent) + 32 * sum(len(s) == 2 for s in silent)
        assert centre.varying + blocks + centre.dull == settings.length


def test_equal_surroundings_teach_nothing():
    """Every atom of the same dimer sees the same: no column of its AEV varies."""
    one = line([0.0, 1.1], "CO")
    data = Conformers.concatenate([one, one, one])
    found = resolution(AEVSettings.ani1x("CO"), data)
    assert [c.varying for c in found.centres] == [0, 0]
    assert all(set(c.silent) == {"C", "O", "CC", "CO", "OO"} and not c.dull for c in found.centres)
    assert not found.lonely  # two atoms have no angle in any settings


@pytest.mark.parametrize(
    ("x", "symbols", "settings", "words"),
    [
        # The width of a shell is 1/sqrt(2*16) = 0.177: the first reaches from 0.9 to 0.55.
        ([0.0, 0.5, 3.0], "HHH", AEVSettings.ani1x("H"), ["at 0.90", "0.55", "H-H 0.50", "=0.5"]),
        ([0.0, 0.6, 1.2], "HHH", AEVSettings.ani1x("H"), []),
        # The shell at 0.9 lies more than two widths below 1.4 angstrom, that at 1.17 does not.
        ([0.0, 1.4, 2.8], "HHH", AEVSettings.ani1x("H"), ["1 of 16 radial shells", "=1.4"]),
        ([0.0, 1.0, 4.0], "HHH", AEVSettings.ani1x("H"), ["2 of 3 atoms", "3.5 angstrom"]),
        ([0.0, 9.0], "HH", AEVSettings.ani1x("H"), ["no two atoms", "5.2 angstrom"]),
    ],
)
def test_warnings(x, symbols, settings, words):
    found = resolution(settings, line(x, symbols))
    if not words:
        assert found.warnings == []
        assert "Shells and cutoffs suit" in str(found)
        return
    (warning,) = found.warnings
    assert all(word in warning for word in words), warning
    assert f"warning: {warning}" in str(found)


def test_a_sample_is_drawn_by_its_seed():
    data = random_data(False)
    few = [resolution(AEVSettings.ani1x("HCO"), data, sample=1, seed=s) for s in range(20)]
    assert {sum(c.atoms for c in f.centres) for f in few} == {3, 9, 12}
    assert all((f.conformers, f.of) == (1, 3) for f in few)
    assert "1 of 3 conformers" in str(few[0])


def test_what_cannot_be_looked_at_is_refused():
    data = random_data(False)
    with pytest.raises(SettingsError, match="sample must be at least 1"):
        resolution(AEVSettings.ani1x(), data, sample=0)
    with pytest.raises(DataError, match="no conformers"):
        resolution(AEVSettings.ani1x(), data.take([]))
    with pytest.raises(DataError, match="is O, which this model does not know"):
        resolution(AEVSettings.ani1x("HC"), data)


def test_an_atom_alone_has_a_report():
    found = resolution(AEVSettings.ani1x("H"), line([0.0], "H"))
    assert found.distances == ()
    assert found.centres[0].radial_neighbors == (0.0, 0)
    assert "1 of 1 conformers" in str(found)


def test_command(tmp_path: Path):
    path = tmp_path / "frames.extxyz"
    data = random_data(True)
    ase.io.write(path, frames(data))
    result = CliRunner().invoke(data_app, ["resolve", str(path), "--aev", "cover", "--zeta", "9"])
    assert result.exit_code == 0, result.output
    settings = AEVSettings.cover(data.elements, zeta=9)
    lines = result.stdout.splitlines()
    assert str(resolution(settings, data)).splitlines()[:3] == lines[:3]
    assert symbols_of(np.unique(data.atomic_numbers)) == ["H", "C", "O"]
    result = CliRunner().invoke(data_app, ["resolve", str(path), "--zeta", "9"])
    assert "is for aev=cover; ani1x has constants of its own" in str(result.exception)
