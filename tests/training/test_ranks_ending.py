"""Two processes end a training together, however it ends, and go on with the same bits."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

#: Native threads of a process group that still run. One that does when the interpreter ends may
#: abort the process. A thread that was joined may stay in /proc for a moment.
LEFT = """
import time

def left():
    tasks, until = Path("/proc/self/task"), time.monotonic() + 5
    while names := [n for n in map(name_of, tasks.glob("*")) if "gloo" in n or "tcpstore" in n]:
        if time.monotonic() > until:
            break
        time.sleep(0.01)
    return names

def name_of(task):
    try:
        return (task / "comm").read_text()
    except OSError:  # gone since it was listed
        return ""
"""

#: What each of two processes does; trainings one after the other, as starting processes takes long.
SCRIPT = """
import hashlib, json, os, signal, sys
from pathlib import Path
import numpy as np, torch
from anipot import ANIModel, ANITrainer
from anipot.data import views
from anipot.data.load import load_dataset
from anipot.data.published.bundled import load_bundled
from anipot.data.pack import pack
from anipot.errors import TrainingError
from anipot.training.ranks import joined

torch.set_num_threads(1)
folder = Path(sys.argv[1])
found = {}

def train(name, train, val, interrupt=False, resume=False, file=None, dropout=0.0, **options):
    model = ANIModel.create("HCNO", hidden=[8, 4], seed=1, dtype="float64", dropout=dropout)
    trainer = ANITrainer(model, **{"batch_size": 50, "threads": 1, "device": "cpu", **options})
    stop = interrupt and (lambda history: os.kill(os.getpid(), signal.SIGTERM))
    failure = ""
    try:
        trainer.train(train, val, quiet=True, checkpoint=file, resume=resume, on_epoch=stop or None)
    except TrainingError as e:
        failure = str(e)
    weights = torch.cat([p.detach().flatten() for p in model.networks.parameters()])
    history = trainer.history
    found[name] = {
        "stopped": history.stopped, "updates": history["updates"], "failure": failure,
        "losses": history["train_loss"], "errors": history["val_mae"],
        "val_losses": history["val_loss"],
        "bits": hashlib.sha256(weights.numpy().tobytes()).hexdigest(),
    }

with joined() as ranks:
    data = load_bundled().select(heavy_atoms=2, per_molecule=12)
    if ranks.first:
        data.save(folder / "data.npz")
        pack([folder / "data.npz"], folder / "store", progress=False)
    ranks.tell(0)
    parts = data.split(0.8, 0.2, seed=2)
    train("updates", *parts, updates=6, force_weight=0.1, normalize_aevs=True)
    views.VIEW_FROM = 10
    stored = load_dataset(folder / "store").split(0.8, 0.2, seed=2)
    assert all(part.streams for part in stored)
    train("streamed", *stored, updates=6, force_weight=0.1, normalize_aevs=True)
    train("patience", *parts, epochs=40, patience=1, schedule="constant", learning_rate=0.3)
    train("failure", *parts, epochs=9, optimizer="sgd", schedule="constant", learning_rate=1e9)
    dropped = {"epochs": 2, "dropout": 0.3, "checkpoint_minutes": 1e-9}
    train("whole", *parts, file=folder / "whole.pt", **dropped)
    file = folder / "part.pt"
    # The signal reaches one process alone, and not the first.
    train("interrupted", *parts, interrupt=not ranks.first, file=file, **dropped)
    train("resumed", *parts, resume=True, file=file, **dropped)
found["threads"] = left()
(folder / f"found{ranks.rank}.json").write_text(json.dumps(found))
"""

#: Ways out of a group that only one of two processes takes; the other loses its connection.
WAYS_OUT = """
import json, os, signal, sys
from pathlib import Path
import torch
from anipot import ANIModel, ANITrainer
from anipot.data.published.bundled import load_bundled
from anipot.training.ranks import joined
from anipot.training.step import TrainingStep

torch.set_num_threads(1)
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
parts = load_bundled().select(heavy_atoms=1, per_molecule=40).split(0.8, 0.2, seed=2)
found, losses = [], TrainingStep.losses

def fails(step, index, counts):
    raise ValueError("deep in the engine")

def interrupt(history):
    raise KeyboardInterrupt

def kill(history):
    os.kill(os.getpid(), signal.SIGKILL)

ways = [(0, fails, None), (1, losses, interrupt), (1, losses, kill)]
for port, (whose, step, on_epoch) in zip(sys.argv[2:], ways, strict=True):
    os.environ["MASTER_PORT"] = port
    TrainingStep.losses = step if rank == whose else losses
    model = ANIModel.create("HCNO", hidden=[4], seed=1)
    trainer = ANITrainer(model, batch_size=50, threads=1, device="cpu", epochs=2)
    try:
        with joined():
            trainer.train(*parts, quiet=True, on_epoch=on_epoch if rank == whose else None)
    except BaseException as e:  # kept, as by the SystemExit of a command
        found.append([type(e).__name__, left()])
    else:
        found.append(["none", left()])
    (folder / f"found{rank}.json").write_text(json.dumps(found))
"""


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind(("localhost", 0))
        return [str(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start(folder, processes, script=SCRIPT, ports=1, codes=None):
    """What each process of the script found."""
    free = free_ports(ports)
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": free[0]}
    command = [sys.executable, "-c", LEFT + script, str(folder), *free]
    running = []
    try:
        for rank in range(processes):
            number = {"RANK": str(rank), "WORLD_SIZE": str(processes)}
            running.append(subprocess.Popen(command, env={**os.environ, **where, **number}))
        assert [process.wait(timeout=240) for process in running] == (codes or [0] * processes)
    finally:
        for process in running:
            process.kill()
    return [json.loads((folder / f"found{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
def test_two_processes_end_together_and_go_on(tmp_path):
    (tmp_path / "alone").mkdir()
    (alone,) = start(tmp_path / "alone", 1)
    first, second = start(tmp_path, 2)
    assert first["threads"] == second["threads"] == alone["threads"] == []
    for name, ours in first.items():  # to the last bit of the weights
        assert second[name] == ours, name
    for name in ("updates", "streamed"):
        assert first[name]["updates"][-1] == 6
        assert len(first[name]["updates"]) == 2
        assert first[name]["stopped"] == "finished"
        for what in ("losses", "errors", "val_losses"):
            for other in (alone[name], alone["updates"]):
                assert first[name][what] == pytest.approx(other[what], rel=1e-9)
    assert first["patience"]["stopped"] == "patience"
    assert len(first["patience"]["updates"]) < 40
    assert "the loss is" in first["failure"]["failure"]
    assert first["failure"]["failure"] == alone["failure"]["failure"]
    assert first["interrupted"]["stopped"] == "interrupted"
    assert len(first["interrupted"]["updates"]) == 1
    assert first["whole"]["bits"] != first["interrupted"]["bits"]
    assert first["resumed"] == first["whole"]
    assert first["whole"]["losses"] != alone["whole"]["losses"]  # each drops other neurons


@pytest.mark.slow
def test_no_thread_of_the_group_outlives_it_whatever_ends_it(tmp_path):
    first, second = start(tmp_path, 2, WAYS_OUT, ports=3, codes=[0, -signal.SIGKILL])
    assert first[0] == ["ValueError", []]
    assert second[1] == ["KeyboardInterrupt", []]
    # The others, and the first when the second is killed, have lost a connection.
    for found in (second[0], first[1], first[2]):
        assert found == ["TrainingError", []]
    assert (len(first), len(second)) == (3, 2)
