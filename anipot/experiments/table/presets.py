"""Named tables: sets of rows that people compare again and again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from anipot.errors import SettingsError

#: Every activation but ANI-1x's own, which is that of the base.
_ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "gaussian")

#: Strength of AdamW's weight decay with which it is told from none.
_L2 = 0.01

_DROPOUT = 0.1


def architectures(epochs: int = 30) -> dict[str, Any]:
    """The networks of the source report and ANI-1x's, wider, deeper, with each activation, with
    and without dropout and L2, on the bundled data.

    All rows share AdamW, one-cycle learning rate and kcal/mol targets (the package's defaults),
    which the source's own training has not: ``source`` compares that.
    """
    activations = [{"name": f"ANI-1x {name}", "activation": name} for name in _ACTIVATIONS]
    rows: list[dict[str, Any]] = [
        {"name": "ANI-1x"},
        {"name": "wider", "hidden": [256, 192, 160]},
        {"name": "deeper", "hidden": [160, 128, 96, 64]},
        *activations,
        {"name": "ANI-1x dropout", "dropout": _DROPOUT},
        {"name": "ANI-1x L2", "l2": _L2},
        {"name": "ANI-1x dropout L2", "dropout": _DROPOUT, "l2": _L2},
        {"name": "128 CELU", "hidden": [128]},
        {"name": "128 ReLU", "hidden": [128], "activation": "relu"},
        {"name": "128 sigmoid", "hidden": [128], "activation": "sigmoid"},
        {"name": "200 ReLU", "hidden": [200], "activation": "relu"},
        {"name": "128-64 ReLU", "hidden": [128, 64], "activation": "relu"},
        {"name": "128 ReLU dropout", "hidden": [128], "activation": "relu", "dropout": _DROPOUT},
        {"name": "128 ReLU L2", "hidden": [128], "activation": "relu", "l2": _L2},
    ]
    return {"title": "Architectures", "base": {"training": {"epochs": epochs}}, "rows": rows}


# ---- the source report ---------------------------------------------------------------------------

PROTOCOLS = ("controlled", "as-described")

#: Updates of each run of the second table, and values of the learning rate tried for it.
TUNED_UPDATES = 400
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)

#: Updates of each run on the source's file: 85 batches of 8,192 conformers, 30 epochs.
SOURCE_UPDATES = 2550

SOURCE_EPOCHS = 30

#: What both protocols share: Adam with L2 in its gradient, errors in hartree, a constant rate.
_SOURCE_BASE: dict[str, Any] = {
    "model": {"hidden": [128], "activation": "relu", "output_unit": "hartree"},
    "training": {
        "batch_size": 8192,
        "learning_rate": 1e-5,
        "optimizer": "adam",
        "l2": 1e-5,
        "schedule": "constant",
        "warmup": 0.0,
        "target_unit": "hartree",
    },
}

#: The seven rows as the code has them, with the MAE (kcal/mol) and the loss (hartree^2) reported.
_SOURCE_ROWS: list[dict[str, Any]] = [
    {"name": "original", "learning_rate": 1e-3, "reported": {"mae": 3.99, "loss": 1.729e-5}},
    {"name": "1", "reported": {"mae": 1.30, "loss": 1.177e-5}},
    {"name": "2", "hidden": [200], "reported": {"mae": 4.13, "loss": 1.332e-4}},
    {"name": "3", "hidden": [128, 64], "reported": {"mae": 3.91, "loss": 1.62e-4}},
    {"name": "4", "activation": "sigmoid", "reported": {"mae": 28.78, "loss": 5.36e-3}},
    {
        "name": "5",
        "activation": "sigmoid",
        "dropout": 0.15,
        "output_dropout": True,
        "output_activation": "sigmoid",
        "reported": {"mae": 1244.18, "loss": 4.3699},
    },
    {
        "name": "6",
        "hidden": [128, 64],
        "batch_size": 512,
        "learning_rate": 1e-6,
        "reported": {"mae": 31.18, "loss": 5.41e-3},
    },
]

#: What the report concludes: the row that it finds worse, and the one that it finds better.
_SOURCE_CLAIMS: list[dict[str, str]] = [
    {
        "claim": "a learning rate of 1e-5 is better than 1e-3",
        "lower": "1",
        "higher": "original",
    },
    {"claim": "200 neurons are no better than 128", "lower": "1", "higher": "2"},
    {"claim": "a second hidden layer does not help", "lower": "1", "higher": "3"},
    {"claim": "sigmoid is worse than ReLU", "lower": "1", "higher": "4"},
    {"claim": "dropout does not help", "lower": "4", "higher": "5"},
    {"claim": "smaller batches, at a rate no higher, do not help", "lower": "3", "higher": "6"},
]

_CONTROLLED = [
    "Protocol controlled: the networks of the source's code (row 5 with dropout and sigmoid at its "
    "output), Adam with L2 added to the gradient, squared errors in hartree, rates and batch sizes "
    "as the code asks for; but fresh weights in every row, errors on conformers that were held "
    "out, in evaluation mode, with the best weights restored, several seeds, and equally many "
    "updates in every row.",
]

_TUNED = [
    "Protocol controlled, second table: the same networks, loss, L2 and batches, with a learning "
    "rate chosen for each row on validation; it stays constant through the run. What is compared "
    "is each network at the best constant rate for so few updates: more of them, or a rate that "
    "falls, may order the rows otherwise.",
    "The source's original and iteration 1 differ in the learning rate alone, so they are one row; "
    "no reported numbers stand beside these rows, since none was reported at these rates.",
]

_AS_DESCRIBED = [
    "Protocol as-described: what the text of the source says: 30 epochs in every row, row 6 with "
    "batches of 512 at 1e-5 (its table), dropout in the hidden layer alone and a linear output in "
    "row 5, fresh weights in every row, errors on held-out conformers.",
]


def source(
    protocol: str = "controlled", updates: int | None = None, files: Sequence[str] = ()
) -> dict[str, Any]:
    """The seven rows of the source report, with the numbers that it reports.

    ``protocol``: ``"controlled"`` (all rows make ``updates``, default 2,550, as many as the source
    made on its file), or ``"as-described"`` (30 epochs, as its text says). ``files``: data; none:
    the bundled data. Raises SettingsError for another protocol, and for updates where epochs are
    what the text says.
    """
    if protocol not in PROTOCOLS:
        raise SettingsError(
            f"protocol must be {', '.join(PROTOCOLS)} or as-written, not {protocol!r}"
        )
    base = copy.deepcopy(_SOURCE_BASE)
    rows = copy.deepcopy(_SOURCE_ROWS)
    if files:
        base["data"] = {"files": list(files)}
    parts: dict[str, Any] = {
        "title": f"The source's seven iterations, {protocol}",
        "base": base,
        "rows": rows,
        "claims": _SOURCE_CLAIMS,
    }
    if protocol == "controlled":
        return {**parts, "updates": updates or SOURCE_UPDATES, "notes": _CONTROLLED}
    if updates is not None:
        raise SettingsError(
            f"updates are of the protocol controlled; as-described trains {SOURCE_EPOCHS} epochs "
            "(epochs=60 would change that)"
        )
    base["training"] |= {"epochs": SOURCE_EPOCHS, "patience": SOURCE_EPOCHS}
    for option in ("output_dropout", "output_activation"):
        del rows[5][option]
    del rows[6]["learning_rate"]
    return {**parts, "notes": _AS_DESCRIBED}


def source_tuned(updates: int | None = None, files: Sequence[str] = ()) -> dict[str, Any]:
    """The second table of the protocol controlled: each row's learning rate is tuned first.

    It is shorter than the first, of ``updates`` (default 2,550), of which its runs make a quarter,
    400 at most, and those that tune a third of that.
    """
    own = max(1, min(TUNED_UPDATES, (updates or SOURCE_UPDATES) // 4))
    parts = source("controlled", own, files)
    names = {"1": "original, 1"}
    said = {"6": "smaller batches do not help"}
    rows = [row for row in parts["rows"] if row["name"] != "original"]
    return {
        **parts,
        "title": "The source's iterations, controlled, each with its learning rate tuned",
        "rows": [
            {k: v for k, v in row.items() if k not in ("learning_rate", "reported")}
            | {"name": names.get(row["name"], row["name"])}
            for row in rows
        ],
        "claims": [
            {
                "claim": said.get(claim["higher"], claim["claim"]),
                "lower": names.get(claim["lower"], claim["lower"]),
                "higher": claim["higher"],
            }
            for claim in _SOURCE_CLAIMS
            if claim["higher"] != "original"
        ],
        "notes": _TUNED,
        "tune": {
            "option": "learning_rate",
            "values": list(RATES),
            "updates": max(1, own // 3),
        },
    }
