"""Killed and resumed = never interrupted, bit for bit on the CPU."""

import io
import os
import random
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from anipot.errors import TrainingError
from anipot.networks.self_energies import SelfEnergies
from anipot.potential.model import ANIModel
from anipot.training.checkpoints import CheckpointFile
from anipot.training.trainer import ANITrainer

OPTIONS = {
    "epochs": 5,
    "batch_size": 16,
    "ema": 0.9,
    "checkpoint_minutes": 1e-9,  # after every update
    "l2": 0.01,
}


class Killed(Exception):
    """What stands for kill -9 within a process: nothing after it is done."""


def trainer() -> ANITrainer:
    model = ANIModel.create("HCNO", hidden=[16, 8], dropout=0.2, seed=2)
    return ANITrainer(model, seed=2, **OPTIONS)


def result(t: ANITrainer) -> tuple:
    records = [
        (r.epoch, r.updates, r.learning_rate, r.train_loss, r.val_loss, r.val_mae, r.best)
        for r in t.history
    ]
    return records, [p.detach().clone() for p in t.model.networks.parameters()]


def equal(a: tuple, b: tuple) -> bool:
    return a[0] == b[0] and all(torch.equal(x, y) for x, y in zip(a[1], b[1], strict=True))


def test_dies_after_any_update_and_goes_on(small, tmp_path, monkeypatch):
    train, val, _ = small
    whole = trainer()
    whole.train(train, val, quiet=True)
    expected = result(whole)
    updates = expected[0][-1][1]
    assert updates == 5 * 11

    step = torch.optim.AdamW.step
    random.seed(0)
    for n_deaths in (1, 3):
        checkpoint = tmp_path / f"{n_deaths}.pt"
        deaths = sorted(random.sample(range(2, updates), n_deaths))
        for death in deaths:
            done = 0

            def dying_step(self, *args, death=death, **kwargs):
                nonlocal done
                done += 1
                if done == death:
                    raise Killed
                return step(self, *args, **kwargs)

            with monkeypatch.context() as patch:
                patch.setattr(torch.optim.AdamW, "step", dying_step)
                with pytest.raises(Killed):
                    trainer().train(
                        train, val, checkpoint=checkpoint, resume=checkpoint.exists(), quiet=True
                    )
            assert checkpoint.exists()
            if n_deaths > 1:
                break  # later deaths count from the checkpoint: one is enough here
        last = trainer()
        last.train(train, val, checkpoint=checkpoint, resume=True, quiet=True)
        assert equal(result(last), expected)


def test_a_finished_training_is_not_trained_again(small, tmp_path):
    train, val, _ = small
    first = trainer()
    first.train(train, val, checkpoint=tmp_path / "c.pt", quiet=True)
    again = trainer()
    again.train(train, val, checkpoint=tmp_path / "c.pt", resume=True, quiet=True)
    assert equal(result(again), result(first))


def test_a_checkpoint_of_other_options_or_data_is_refused(small, tmp_path):
    train, val, test = small
    path = tmp_path / "c.pt"
    trainer().train(train, val, checkpoint=path, quiet=True)
    other = ANITrainer(trainer().model, seed=3, **OPTIONS)
    with pytest.raises(TrainingError, match="belongs to other options or other data"):
        other.train(train, val, checkpoint=path, resume=True, quiet=True)
    with pytest.raises(TrainingError, match="belongs to other options or other data"):
        trainer().train(train, test, checkpoint=path, resume=True, quiet=True)


def test_a_damaged_checkpoint_is_refused(small, tmp_path):
    train, val, _ = small
    path = tmp_path / "c.pt"
    trainer().train(train, val, checkpoint=path, quiet=True)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"c\.pt: .*(damaged|not a checkpoint)"):
            trainer().train(train, val, checkpoint=path, resume=True, quiet=True)
    with pytest.raises(TrainingError, match="no checkpoint there"):
        trainer().train(train, val, checkpoint=tmp_path / "none.pt", resume=True, quiet=True)


def test_a_flipped_bit_in_a_checkpoint_is_refused(small, tmp_path):
    """Anywhere in it, with the way out; or it does no harm."""
    train, val, _ = small
    path = tmp_path / "c.pt"
    trainer().train(train, val, checkpoint=path, quiet=True)
    file = CheckpointFile(path, *identity(path))
    right = file.read()
    raw = path.read_bytes()
    rng = random.Random(1)
    places = [rng.randrange(len(raw)) for _ in range(40)] + list(range(len(raw) - 100, len(raw), 9))
    refused = 0
    for place in places:
        changed = bytearray(raw)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        try:
            again = file.read()
        except TrainingError as e:
            assert re.search(r"c\.pt: the checkpoint is damaged .* remove the file", str(e))  # noqa: PT017
            refused += 1
        else:  # what is damaged is the mark of the checksum
            assert place >= len(raw) - 80
            assert same(again, right)
    assert refused > 40


def identity(path: Path) -> tuple[str, str]:
    state = torch.load(path, weights_only=True)
    return state["fingerprint"], state["engine"]


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b or (a != a and b != b)


def test_checkpoints_without_a_checksum_are_read(small, tmp_path):
    """Those that an older anipot wrote; zip's own checksums still count."""
    train, val, _ = small
    path = tmp_path / "c.pt"
    trainer().train(train, val, checkpoint=path, quiet=True)
    file = CheckpointFile(path, *identity(path))
    right = file.read()
    raw = path.read_bytes()
    assert raw[-78:-64] == b"anipot sha256 "
    old = raw[:-80] + b"\0\0"
    path.write_bytes(old)
    assert zipfile.ZipFile(path).testzip() is None
    assert same(file.read(), right)
    middle = old.index(b"\x80\x02") + 400  # in the pickle
    path.write_bytes(old[:middle] + bytes([old[middle] ^ 1]) + old[middle + 1 :])
    with pytest.raises(TrainingError, match="does not match its checksum"):
        file.read()
    torch.save(torch.load(io.BytesIO(raw), weights_only=True), path)
    assert same(file.read(), right)


def test_a_full_disk_leaves_the_last_checkpoint_and_ends_no_training(
    small, tmp_path, monkeypatch, capsys
):
    train, val, _ = small
    path = tmp_path / "c.pt"
    trainer().train(train, val, checkpoint=path, quiet=True)
    before = path.read_bytes()

    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    again = trainer()
    assert again.train(train, val, checkpoint=path, quiet=True).stopped == "finished"
    told = capsys.readouterr().err
    assert told.count("c.pt could not be written (No space left on device)") == 1
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_another_aev_engine_is_refused(small, tmp_path):
    train, val, _ = small
    path = tmp_path / "c.pt"
    model = ANIModel.create("HCNO", hidden=[16, 8], dropout=0.2, seed=2, engine="reference")
    ANITrainer(model, seed=2, **OPTIONS).train(train, val, checkpoint=path, quiet=True)
    model = ANIModel.create("HCNO", hidden=[16, 8], dropout=0.2, seed=2, engine="torchani")
    with pytest.raises(TrainingError, match="began with the reference AEV engine"):
        ANITrainer(model, seed=2, **OPTIONS).train(
            train, val, checkpoint=path, resume=True, quiet=True
        )


def test_kept_self_energies_are_those_of_the_checkpoint(small, tmp_path):
    train, val, _ = small
    path = tmp_path / "c.pt"
    values = np.array([-0.5, -37.9, -54.6, -75.0])

    def fine_tuning() -> ANITrainer:
        t = trainer()
        t.model.self_energies = SelfEnergies(t.model.elements, values)
        return t

    def stop(history):
        if len(history) == 2:
            history.stopped = "interrupted"

    whole = fine_tuning()
    whole.train(train, val, quiet=True)
    fine_tuning().train(train, val, checkpoint=path, on_epoch=stop, quiet=True)
    fresh = trainer()  # knows nothing of the self energies
    fresh.train(train, val, checkpoint=path, resume=True, quiet=True)
    np.testing.assert_array_equal(fresh.model.self_energies.values, values)
    assert equal(result(fresh), result(whole))


COMMAND = [
    *("epochs=6", "batch_size=32", "hidden=24,16", "dropout=0.1", "per_molecule=12"),
    *("checkpoint_minutes=0.0005", "training.seed=5", "heavy_atoms=2"),
]


def start(*words: str, **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "anipot", "train", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **more,
    )


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """kill -9 of the real command, three times in one run, then the same bytes of potential."""
    whole = start(*COMMAND, "-o", str(tmp_path / "whole"))
    output = whole.communicate(timeout=300)[0]
    assert whole.returncode == 0, output
    expected = (tmp_path / "whole" / "potential.safetensors").read_bytes()

    folder = tmp_path / "killed"
    process = start(*COMMAND, "-o", str(folder))
    rng = random.Random(7)
    kills = 0
    for _ in range(3):
        deadline = time.monotonic() + 120
        while not (folder / "checkpoint.pt").exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        if process.poll() is None and kills:  # let it read its checkpoint and go on a little
            before = (folder / "checkpoint.pt").stat().st_mtime_ns
            while (
                process.poll() is None
                and (folder / "checkpoint.pt").stat().st_mtime_ns == before
                and time.monotonic() < deadline
            ):
                time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3))
        if process.poll() is None:
            kills += 1
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start("--resume", str(folder))
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert kills >= 1, "the run was over before it could be killed: make it longer"
    assert (folder / "potential.safetensors").read_bytes() == expected
