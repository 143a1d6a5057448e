"""A small potential in NeuroChem's format, written from the format's description alone."""

import bz2
from pathlib import Path

import numpy as np

ELEMENTS = ("O", "H")  # an order that is neither alphabetical nor that of atomic numbers
SELF_ENERGIES = {"H": -0.6, "O": -75.2}
#: Columns of the AEV: 2 elements x 2 shifts + 3 pairs x 2 x 2 shifts.
LENGTH = 16

PARAMS = """TM = 1
DESC = something else = that is not read
Rcr = 5.2000e+00
Rca = 3.5000e+00
EtaR = [1.6000000e+01]
ShfR = [9.0000000e-01,2.1000000e+00]
Zeta = [3.2000000e+01]
ShfZ = [1.9634954e-01,1.3744468e+00]
EtaA = [8.0000000e+00]
ShfA = [9.0000000e-01,1.5500000e+00]
Atyp = [O,H]
"""


def packed(text: str | bytes) -> bytes:
    """A ``.nnf``: length, ``=``, newline, bz2 stream of the text."""
    content = text if isinstance(text, bytes) else text.encode()
    return str(len(content)).encode() + b"=\n" + bz2.compress(content)


def network_text(element: str, widths: list[int], activation: int = 9, last: int = 6) -> str:
    """What a ``.nnf`` says: fan-in, widths, activations, names of the files of the weights."""
    text = f"inputsize={widths[0]};\natom_net {element} $\n"
    for k in range(1, len(widths)):
        fan_in, nodes = widths[k - 1], widths[k]
        name = f"ANN-{element}.nnf-l{k}"
        text += (
            f"layer [\nnodes={nodes};\nactivation={last if k == len(widths) - 1 else activation};\n"
            f"type=0;\nblocksize={fan_in};\ndropout=0;\ndropset=0.000000;\nmaxnorm=0;\n"
            f"norm=-nan;\nl2norm=1;\nl2valu=0.000100;\nbtchnorm=0;\n"
            f"weights=FILE:{name}.wparam[{nodes * fan_in}];\n"
            f"biases=FILE:{name}.bparam[{nodes}];\n]\n"
        )
    return text + "\n $\x00"


def write_member(folder: Path, rng: np.random.Generator, activation: int = 9) -> dict:
    """``networks/``; (weight, bias) of each layer by element."""
    networks = folder / "networks"
    networks.mkdir(parents=True)
    weights = {}
    for element, widths in (("O", [LENGTH, 5, 4, 1]), ("H", [LENGTH, 3, 1])):
        (networks / f"ANN-{element}.nnf").write_bytes(
            packed(network_text(element, widths, activation))
        )
        layers = []
        for k in range(1, len(widths)):
            w = rng.normal(size=(widths[k], widths[k - 1])).astype("<f4")
            b = rng.normal(size=widths[k]).astype("<f4")
            (networks / f"ANN-{element}.nnf-l{k}.wparam").write_bytes(w.tobytes())
            (networks / f"ANN-{element}.nnf-l{k}.bparam").write_bytes(b.tobytes())
            layers.append((w.astype(np.float64), b.astype(np.float64)))
        weights[element] = layers
    return weights


def write_ensemble(
    folder: Path, members: int = 2, activation: int = 9, name: str = "tiny"
) -> tuple[Path, list[dict]]:
    """``NAME.info`` and ``NAME/`` in ``folder``: path of the ``.info``, weights of the members."""
    rng = np.random.default_rng(members)
    inside = folder / name
    weights = [write_member(inside / f"train{k}", rng, activation) for k in range(members)]
    (inside / "tiny.params").write_text(PARAMS)
    lines = [f"{e},{k}={SELF_ENERGIES[e]:.12f}" for k, e in enumerate(ELEMENTS)]
    (inside / "sae_linfit.dat").write_text("\n\n".join(lines) + "\n\n")
    info = folder / f"{name}.info"
    info.write_text(f"{name}/tiny.params\n{name}/sae_linfit.dat\n{name}/train\n{members}\n\n")
    return info, weights
