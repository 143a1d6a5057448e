"""Errors on real ANI-1 data: the default recipe, several seeds, their median.

    python -m benchmarks ani1 ani_gdb_s01.h5 ani_gdb_s02_hydrocarbons.h5

Each seed is a split of its own (80/10/10 by conformer) and weights of their own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import torch

from anipot.data.conformers import Conformers
from anipot.data.load import load_dataset
from anipot.potential.model import ANIModel
from anipot.training.trainer import ANITrainer


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks ani1", description=__doc__)
    parser.add_argument("files", nargs="+", help="data files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    data = load_dataset(options.files)
    print(data)
    rows = [_train(data, seed) for seed in options.seeds]
    print("\n  seed  test MAE    RMSE kcal/mol       N  seconds  load")
    for seed, (mae, rmse, n, seconds, load) in zip(options.seeds, rows, strict=True):
        print(f"{seed:>6}  {mae:8.3f}  {rmse:6.3f} {n:15,}  {seconds:7.0f}  {load:4.1f}")
    mae, rmse, _, seconds, _ = (statistics.median(column) for column in zip(*rows, strict=True))
    print(f"median  {mae:8.3f}  {rmse:6.3f} {'':15}  {seconds:7.0f}")
    return 0


def _train(data: Conformers, seed: int) -> tuple[float, float, int, float, float]:
    """Test MAE and RMSE (kcal/mol), conformers tested, seconds, and the machine's load."""
    train, validation, test = data.split(0.8, 0.1, 0.1, seed=seed)
    began = time.monotonic()
    trainer = ANITrainer(ANIModel.create(train.elements, seed=seed), seed=seed)
    trainer.train(train, validation)
    seconds = time.monotonic() - began
    errors = trainer.evaluate(test).energy
    return errors.mae, errors.rmse, errors.n, seconds, os.getloadavg()[0]


if __name__ == "__main__":
    import sys

    sys.exit(main(sys.argv[1:]))
