"""Hypothesis strategies that several test files share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from anipot.data.conformers import Conformers


@st.composite
def conformers(
    draw: st.DrawFn, least: int = 1, most: int = 12, elements: str = "HCNO", labels: bool = True
) -> Conformers:
    """Data sets of a few conformers with random atoms, labels, masks, groups and maybe cells."""
    from anipot.elements import numbers_of, parse_elements

    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    m = draw(st.integers(least, most))
    counts = rng.integers(1, 7, size=m)
    a = int(counts.sum())
    n_groups = draw(st.integers(1, m))
    energies = rng.normal(-80, 30, size=m) if labels else None
    masks = {}
    if labels and draw(st.booleans()):
        mask = rng.random(m) < 0.7
        energies = np.where(mask, energies, np.nan)
        if not mask.all():
            masks["energies"] = mask
    periodic = draw(st.booleans())
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return Conformers(
        rng.choice(numbers_of(parse_elements(elements)), size=a),
        rng.normal(scale=2, size=(a, 3)).astype(dtype),
        np.concatenate([[0], np.cumsum(counts)]),
        energies=energies,
        forces=rng.normal(size=(a, 3)).astype(dtype) if draw(st.booleans()) else None,
        cells=rng.normal(size=(m, 3, 3)) + 8 * np.eye(3) if periodic else None,
        stress=rng.normal(size=(m, 3, 3)) if periodic and labels else None,
        molecule=rng.integers(0, n_groups, size=m),
        molecule_names=tuple(f"set/molecule-{i}" for i in range(n_groups)),
        masks=masks,
        level_of_theory=draw(st.sampled_from(["", "wB97X/6-31G(d)"])),
        sources=("made.h5",),
    )
