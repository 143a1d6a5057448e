"""Several processes train as one does: equal losses, gradients and weights from equal batches."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import anipot
from anipot.aev import AEVComputer, AEVSettings
from anipot.cli.train import train as train_command
from anipot.data.batches import BatchLoader
from anipot.data.conformers import Conformers
from anipot.errors import SettingsError
from anipot.training import aev_cache
from anipot.training.aev_cache import AEVSource
from anipot.training.ranks import Ranks, joined, ranks

ALONE = [sys.executable, "-m", "anipot", "train"]
PORT = 29_500 + os.getpid() % 400

#: 1,008 training conformers: the last batch of 1,007 leaves nothing for the second of two ranks,
#: and a share of the first has enough atoms to be divided by elements.
OPTIONS = [
    "per_molecule=20", "epochs=3", "hidden=16,8", "dtype=float64", "device=cpu", "threads=1",
    "force_weight=0.1", "ema=0.9", "clip=50", "batch_size=1007", "freeze_layers=0",
]  # fmt: skip


def together(n: int) -> list[str]:
    launch = f"-m torch.distributed.run --nproc-per-node {n} --master-port {PORT} -m anipot train"
    return [sys.executable, *launch.split()]


def run(command: list[str], folder: Path) -> str:
    code, printed, errors = finish(command, folder)
    assert code == 0, errors[-3000:]
    return printed


def finish(command: list[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, output and errors; torchrun that takes too long ends its processes, too."""
    environment = {k: v for k, v in os.environ.items() if k != "WORLD_SIZE"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        try:
            printed, errors = process.communicate(timeout=300)
        except BaseException:
            process.terminate()  # and not kill, after which nobody would end the others
            raise
    return process.returncode, printed, errors


def errors(folder: Path) -> np.ndarray:
    with (folder / "metrics.csv").open() as file:
        columns = ("train_loss", "val_loss", "val_mae", "val_rmse", "val_force_mae")
        return np.array([[float(line[c]) for c in columns] for line in csv.DictReader(file)])


def weights(folder: Path) -> torch.Tensor:
    model = anipot.load(folder / "potential.safetensors")
    return torch.cat([p.detach().flatten() for p in model.networks.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["batch_size=50", "freeze_layers=1", "engine=reference"]])
def test_two_ranks_equal_one_with_the_same_batches(tmp_path, more):
    printed = run([*together(2), *OPTIONS, *more, "-o", "two"], tmp_path)
    run([*ALONE, *OPTIONS, *more, "-o", "one"], tmp_path)
    np.testing.assert_allclose(errors(tmp_path / "two"), errors(tmp_path / "one"), rtol=1e-9)
    torch.testing.assert_close(
        weights(tmp_path / "two"), weights(tmp_path / "one"), rtol=1e-8, atol=1e-10
    )
    assert printed.count("epoch    3/3") == 1, "only the first rank prints"
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(
        p.name for p in (tmp_path / "one").iterdir()
    )


@pytest.mark.slow
def test_killed_and_resumed_with_another_number_of_ranks(tmp_path):
    options = [*OPTIONS, "batch_size=20", "epochs=8", "checkpoint_minutes=1e-9"]
    run([*ALONE, *options, "-o", "whole"], tmp_path)
    processes = []
    for rank in ("0", "1"):  # as torchrun starts them
        where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(PORT + 1)}
        process = subprocess.Popen(
            [*ALONE, *options, "-o", "run"], cwd=tmp_path, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={**os.environ, **where, "RANK": rank, "WORLD_SIZE": "2"},
        )  # fmt: skip
        processes.append(process)
    metrics = tmp_path / "run" / "metrics.csv"
    deadline = time.monotonic() + 200
    while not metrics.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()
    assert 1 <= len(errors(tmp_path / "run")) < 8
    assert not (tmp_path / "run" / "potential.safetensors").exists()
    run([*ALONE, "--resume", "run"], tmp_path)
    np.testing.assert_allclose(errors(tmp_path / "run"), errors(tmp_path / "whole"), rtol=1e-8)
    torch.testing.assert_close(
        weights(tmp_path / "run"), weights(tmp_path / "whole"), rtol=1e-7, atol=1e-9
    )


@pytest.mark.slow
def test_a_failure_before_training_is_told_and_ends_all(tmp_path):
    command = [*together(2), "no_such_file.h5", "-o", "run"]
    code, _, errors = finish(command, tmp_path)
    assert code != 0
    assert "no_such_file.h5" in errors
    assert not (tmp_path / "run").exists()


def test_shares_of_a_batch_are_disjoint_and_complete():
    for n in (0, 1, 5, 64):
        index = torch.randperm(n)
        shares = [Ranks(rank, 3).share(index) for rank in range(3)]
        assert torch.equal(torch.cat(shares), index)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_ensemble_is_not_trained_by_every_process(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingsError, match=r"each would train all members.*workers=2"):
        train_command(["members=2"], None, tmp_path / "run", None, False, None, False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("processes", "cached"), [(1, True), (2, True), (3, False)])
def test_processes_of_a_machine_share_its_memory(monkeypatch, processes, cached):
    data = Conformers(np.ones(4), np.arange(12.0).reshape(4, 3), np.array([0, 2, 4]))
    loader = BatchLoader(data, 2, "HCNO")
    size = 4 * 384 * 4
    monkeypatch.setattr(aev_cache, "free_memory", lambda device: 4 * size)
    monkeypatch.setattr(aev_cache, "on_this_machine", lambda: processes)
    source = AEVSource(AEVComputer(AEVSettings.ani1x(), "reference"), [loader], "auto")
    assert (loader in source) == cached


def test_alone_nothing_is_joined(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as alone:
        assert alone == ranks() == Ranks(0, 1)
        assert alone.tell("x") == "x"
        assert torch.equal(alone.sum(torch.ones(2)), torch.ones(2))
