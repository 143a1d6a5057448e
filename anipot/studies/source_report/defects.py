"""The defects of the source's notebook, each with the numbers that show it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from anipot.experiments.table.comparison import number
from anipot.studies.source_report.recipe import largest_difference
from anipot.studies.source_report.rows import NotebookRun, NotebookTable
from anipot.units import HARTREE_TO_KCALMOL


class Defect(NamedTuple):
    """A defect of the source, and its measured effect, in sentences."""

    title: str
    lines: list[str]


def defects(table: NotebookTable) -> list[Defect]:
    """All ten, in the order in which they matter."""
    return [
        _evaluation(table),
        _restoring(table),
        _warm_start(table),
        _batch_size(table),
        _output(table),
        _dropout(table),
        _unfinished(table),
        _self_energies(table),
        _l2(table),
        _one_run(table),
    ]


def _evaluation(table: NotebookTable) -> Defect:
    first = min(table.batch_size, len(table.division.train))
    differences = {
        run.name: abs(run.said["validation"][1] - run.said["test"][1]) for run in table.runs
    }
    # The same numbers, averaged over more or fewer repeats of the batch, differ in the last digit.
    equal = {
        run.name: differences[run.name]
        for run in table.runs
        if math.isclose(run.said["validation"][1], run.said["test"][1], rel_tol=1e-5)
    }
    most = max(equal.values(), default=0.0)
    lines = [
        f"evaluate() scores the first {first:,} training conformers, whatever it is given.",
        f"Its validation MAE minus its test MAE is {f'{most:.1g}' if most else 'exactly 0'} "
        f"kcal/mol in the rows {', '.join(equal)}."
        if equal
        else "",
        *(
            f"In row {name} they differ by {number(d)} kcal/mol: dropout draws other numbers (the "
            "source reports 1244.18 and 1245.78)."
            for name, d in differences.items()
            if name not in equal
        ),
    ]
    for part in ("validation", "test"):
        n, batches = len(getattr(table.division, part)), table.batches[part]
        run = table.runs[0]
        lines.append(
            f"Its losses of the {part} part are {batches} x {first:,} / {n:,} = "
            f"{batches * first / n:.3f} times that of the batch it scores; measured in row "
            f"{run.name}: {run.said[part][0]:.4g} / {run.last:.4g} = "
            f"{run.said[part][0] / run.last:.3f}."
        )
    return Defect("Evaluation never sees a held-out conformer", [line for line in lines if line])


def _restoring(table: NotebookTable) -> Defect:
    changed = max(run.restoring_changed for run in table.runs)
    lines = [
        f"Loading the weights of the best epoch changes no weight: the largest difference over all "
        f"rows is {changed:g}, since they are a reference to the weights that went on training."
    ]
    for run in table.runs:
        if run.best_epoch < len(run.train_losses):
            lines.append(
                f"Row {run.name}: the best epoch was {run.best_epoch} of {len(run.train_losses)}; "
                f"the weights it ends with differ from those by up to {number(run.from_best)}."
            )
    if len(lines) == 1:
        lines.append("In every row the best epoch was the last one, so here it did no harm.")
    return Defect("Early stopping restores nothing", lines)


def _warm_start(table: NotebookTable) -> Defect:
    original, warm = table["original"], table["1"]
    fresh = table.controls["1 from fresh weights"]
    return Defect(
        "Iteration 1 goes on from the original's weights",
        [
            f"Loss of the first batch at the end of the original: {original.last:.6g} hartree^2; "
            f"before the first update of iteration 1: {warm.first:.6g}; difference "
            f"{abs(warm.first - original.last):g}. The original began at {original.first:.4g}.",
            f"After {warm.updates} updates at {_rate(warm):g} its held-out test MAE is "
            f"{number(warm.found['test'].mae)} kcal/mol; from fresh weights it is "
            f"{number(fresh.found['test'].mae)}, and the original alone has "
            f"{number(original.found['test'].mae)}.",
        ],
    )


def _batch_size(table: NotebookTable) -> Defect:
    six, again = table["6"], table.controls["6, with the loaders' batch size"]
    assert six.row.settings is not None
    asked = six.row.settings.training.batch_size
    n = len(table.division.train)
    difference = largest_difference(six.weights, again.weights)
    epochs = len(six.train_losses)
    return Defect(
        f"The batch size of {asked} never takes effect",
        [
            f"Row 6 asks for {asked} and makes {six.updates:,} updates in {epochs} epochs; batches "
            f"of {asked} would be {-(-n // asked) * epochs:,}.",
            f"Trained again with batch_size={table.batch_size:,} it has the same weights: the "
            f"largest difference is {difference:g}.",
        ],
    )


def _output(table: NotebookTable) -> Defect:
    five = table["5"]
    low, high = five.extra["lowest atomic energy"], five.extra["highest atomic energy"]
    below = float(np.mean(table.targets < 0))
    per_atom = float(np.mean(table.targets / table.atoms)) * HARTREE_TO_KCALMOL
    return Defect(
        "A sigmoid at the output of iteration 5",
        [
            f"Atomic energies of its networks lie between {low:.4f} and {high:.4f} hartree "
            f"({low * HARTREE_TO_KCALMOL:.0f} and {high * HARTREE_TO_KCALMOL:.0f} kcal/mol); a "
            "sigmoid gives nothing outside of 0 to 1.",
            f"What they are to learn is {number(per_atom)} kcal/mol an atom on average, and below "
            f"0, where no sum of such energies can be, for {below:.0%} of the conformers.",
        ],
    )


def _dropout(table: NotebookTable) -> Defect:
    five = table["5"]
    on, off = five.extra["dropout on"], five.extra["dropout off"]
    return Defect(
        "Dropout stays on in evaluation",
        [
            f"Row 5, first training batch: MAE {number(on)} kcal/mol with dropout, as the notebook "
            f"has it, and {number(off)} without."
        ],
    )


def _unfinished(table: NotebookTable) -> Defect:
    lines = []
    for run in table.runs[2:]:
        losses = run.train_losses
        late = max(1, len(losses) // 10)
        if len(losses) > late:
            fell = 1 - losses[-1] / losses[-1 - late]
            how = "still fell" if fell > 0 else "rose"
            lines.append(
                f"Row {run.name}: from epoch {len(losses) - late} to {len(losses)} the training "
                f"loss {how} by {abs(fell):.1%}, to {losses[-1]:.3g} hartree^2, after "
                f"{run.updates:,} updates at {_rate(run):g}."
            )
    return Defect("Iterations 2 to 6 are unfinished, not worse", lines)


def _self_energies(table: NotebookTable) -> Defect:
    whole, own = table.self_energies
    by_element = ", ".join(
        f"{e} {(a - b) * HARTREE_TO_KCALMOL:+.3f}"
        for e, a, b in zip(whole.elements, whole.values, own.values, strict=True)
    )
    return Defect(
        "Self energies are fitted before the data is divided",
        [
            "Those of the whole file less those of the training part (kcal/mol): "
            f"{by_element}; they shift the reference of a test conformer by "
            f"{table.shift:.3g} kcal/mol on average."
        ],
    )


def _l2(table: NotebookTable) -> Defect:
    run, without = table["original"], table.controls["original without L2"]
    assert run.row.settings is not None
    l2 = run.row.settings.training.l2
    penalty = l2 / 2 * run.squared_weights
    squared = HARTREE_TO_KCALMOL**2
    return Defect(
        "L2 in the gradient of a loss in hartree^2",
        [
            f"A strength of {l2:g} beside a loss in hartree^2 is one of {l2 * squared:.1f} beside "
            "a loss in (kcal/mol)^2.",
            f"At the end of the original the penalty is {penalty * squared:.3g} (kcal/mol)^2, and "
            f"the loss of the last epoch {run.train_losses[-1] * squared:.3g}.",
            f"Its held-out test MAE is {number(run.found['test'].mae)} kcal/mol with it and "
            f"{number(without.found['test'].mae)} without.",
        ],
    )


def _one_run(table: NotebookTable) -> Defect:
    run, other = table["original"], table.controls["original, another seed"]
    lowest = min(run.train_losses)
    return Defect(
        "One run of each, in frozen batches",
        [
            f"The original with another seed: held-out test MAE {number(other.found['test'].mae)} "
            f"kcal/mol, and not {number(run.found['test'].mae)}.",
            f"The training part is in batches of {table.batch_size:,}, {table.batches['train']:,} "
            "in number, that are the same in every epoch.",
            "The 'smallest loss' of the source is that of the last epoch: "
            f"{run.train_losses[-1]:.4g} hartree^2 in the original here, where the smallest is "
            f"{lowest:.4g}.",
        ],
    )


def _rate(run: NotebookRun) -> float:
    assert run.row.settings is not None
    return run.row.settings.training.learning_rate
