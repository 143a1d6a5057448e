"""The benchmark of the source's experiment: the data it makes, what it counts, and that it runs."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from anipot.data.load import load_dataset
from anipot.data.published.bundled import load_bundled

ROOT = Path(__file__).resolve().parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks are not here", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks import made_data, scale, scale_run  # noqa: E402


def test_the_made_data_has_the_mix_and_is_made_once(tmp_path):
    store = made_data.made_store(tmp_path, 3000, None)
    data = load_dataset(store)
    assert len(data) == 3000
    total = sum(made_data.ANI1.values())
    assert total == 864_898
    found = np.bincount(data.heavy_atoms)[1:]
    assert np.abs(found - 3000 * np.array(list(made_data.ANI1.values())) / total).max() <= 1
    assert (np.diff(data.molecule) >= 0).sum() >= len(data) - 5  # molecule after molecule
    before = (store / "coordinates.npy").stat().st_mtime_ns
    assert made_data.made_store(tmp_path, 3000, None) == store
    assert (store / "coordinates.npy").stat().st_mtime_ns == before
    # Each conformer is near one of the bundled data, of the molecule of that name.
    bundled = load_bundled()
    one = data.take([1234])
    own = bundled.take(bundled.molecule == one.molecule[0])
    assert data.molecule_names == bundled.molecule_names
    x = own.coordinates.reshape(len(own), -1, 3)
    nearest = np.abs(x - one.coordinates).max(axis=(1, 2)).argmin()
    noise = one.coordinates - x[nearest]
    assert 0 < np.abs(noise).max() < 6 * made_data.NOISE
    springs = made_data.STIFFNESS / 2 * float((noise.astype(float) ** 2).sum())
    assert one.energies[0] == pytest.approx(own.energies[nearest] + springs, abs=1e-6)


def test_labels_are_those_of_the_potential(tmp_path):
    import anipot

    data = load_dataset(made_data.made_store(tmp_path, 100, "anipot-hcno"))
    expected = anipot.load("anipot-hcno").predict(data).energies
    np.testing.assert_allclose(data.energies, expected, atol=1e-5)


def test_conformers_are_counted_as_batches_are_made():
    assert scale_run.conformers_seen(100, 30, 4) == 100
    assert scale_run.conformers_seen(100, 30, 3) == 90
    assert scale_run.conformers_seen(100, 30, 9) == 230


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "scale", "--threads", "1", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_experiment_runs(tmp_path):
    small = ["--conformers", "2000", "--potential", "none", "--batch", "256", "--rounds", "1"]
    printed = run(*small, "--device", "cpu", "--out", str(tmp_path))
    assert "streamed" in printed
    assert "TorchANI" in printed
    found = json.loads((tmp_path / "scale.json").read_text())
    streamed, in_memory = found["experiment"]
    assert (streamed["mode"], in_memory["mode"]) == ("streamed", "in memory")
    for row in (streamed, in_memory):
        assert row["updates"] == 7  # 1,600 conformers
        assert row["seconds_per_epoch"] == pytest.approx(row["seconds"])
        assert row["conformers_per_second"] == pytest.approx(1600 / row["seconds"])
    # One order of batches and one set of weights, whatever way the data takes.
    assert streamed["validation_mae_kcalmol"] == pytest.approx(in_memory["validation_mae_kcalmol"])
    with (tmp_path / "step.csv").open() as file:
        codes = [line["code"] for line in csv.DictReader(file)]
    assert codes == ["anipot", "TorchANI"]


@pytest.mark.slow
def test_sizes_make_a_figure_and_keep_other_results(tmp_path):
    (tmp_path / "scale.json").write_text('{"step": []}')
    printed = run(
        "--sizes", "300", "1000", "--batch", "128", "--updates", "3", "--device", "cpu",
        "--out", str(tmp_path),
    )  # fmt: skip
    assert "sizes.png" in printed
    found = json.loads((tmp_path / "scale.json").read_text())
    assert list(found) == ["step", "sizes"]
    assert [(r["conformers"], r["mode"]) for r in found["sizes"]] == [
        (n, mode) for n in (300, 1000) for mode in (scale.STREAMED, scale.IN_MEMORY)
    ]
    assert (tmp_path / "sizes.png").stat().st_size > 10_000
