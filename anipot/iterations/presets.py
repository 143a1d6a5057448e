"""Named tables: sets of rows that people compare again and again."""

from __future__ import annotations

from typing import Any

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
