"""AEVs by plain loops over atoms and images, from the formulas with acos: slow, and independent."""

import itertools
import math

import numpy as np

from anipot.aev import AEVSettings


def images(
    center: np.ndarray,
    x: np.ndarray,
    cell: np.ndarray | None,
    pbc: np.ndarray | None,
    cutoff: float,
) -> list[tuple[int, np.ndarray]]:
    """(atom, vector from ``center``) of all atoms and images at most ``cutoff`` away, but not 0.

    By brute force: as many shifts along each periodic direction as could ever be needed.
    """
    vectors = np.zeros((3, 3)) if cell is None else np.asarray(cell)
    periodic = [False] * 3 if pbc is None else list(pbc)
    used = vectors[periodic]
    reach = 0
    if len(used):
        spread = np.linalg.norm(x[:, None] - x[None], axis=2).max()
        # A lattice vector of integers n is at least |n| times the smallest singular value long.
        reach = math.ceil((cutoff + spread) / np.linalg.svd(used, compute_uv=False).min())
    ranges = [range(-reach, reach + 1) if p else range(1) for p in periodic]
    found = []
    for n in itertools.product(*ranges):
        moved = x + sum(n[k] * vectors[k] for k in range(3) if periodic[k])
        for j, vector in enumerate(moved - center):
            r = np.linalg.norm(vector)
            if 1e-9 < r <= cutoff:
                found.append((j, vector))
    return found


def fc(r: float, cutoff: float) -> float:
    return 0.5 * math.cos(math.pi * r / cutoff) + 0.5 if r <= cutoff else 0.0


def slow_aev(
    s: AEVSettings,
    species: np.ndarray,
    x: np.ndarray,
    cell: np.ndarray | None = None,
    pbc: np.ndarray | None = None,
) -> np.ndarray:
    """(n, L) AEVs of one conformer in float64, in the layout that AEVSettings describes."""
    n, e = len(x), s.n_elements
    radial = np.zeros((n, e, len(s.radial_eta), len(s.radial_shifts)))
    blocks = [(a, b) for a in range(e) for b in range(a, e)]
    terms = (len(s.angular_eta), len(s.zeta), len(s.angular_shifts), len(s.angle_shifts))
    angular = np.zeros((n, len(blocks), *terms))
    for i in range(n):
        near = images(x[i], x, cell, pbc, s.radial_cutoff)
        for j, v in near:
            r = np.linalg.norm(v)
            for (m, eta), (k, shift) in itertools.product(
                enumerate(s.radial_eta), enumerate(s.radial_shifts)
            ):
                value = 0.25 * math.exp(-eta * (r - shift) ** 2) * fc(r, s.radial_cutoff)
                radial[i, species[j], m, k] += value
        near = [(j, v) for j, v in near if np.linalg.norm(v) <= s.angular_cutoff]
        for (j, v), (k, w) in itertools.combinations(near, 2):
            rj, rk = np.linalg.norm(v), np.linalg.norm(w)
            theta = math.acos(0.95 * float(v @ w) / (rj * rk))
            both = fc(rj, s.angular_cutoff) * fc(rk, s.angular_cutoff)
            block = blocks.index(tuple(sorted((int(species[j]), int(species[k])))))
            for (m, eta), (z, zeta), (p, shift), (q, angle) in itertools.product(
                enumerate(s.angular_eta),
                enumerate(s.zeta),
                enumerate(s.angular_shifts),
                enumerate(s.angle_shifts),
            ):
                angular[i, block, m, z, p, q] += (
                    2
                    * ((1 + math.cos(theta - angle)) / 2) ** zeta
                    * math.exp(-eta * ((rj + rk) / 2 - shift) ** 2)
                    * both
                )
    return np.hstack([radial.reshape(n, s.radial_length), angular.reshape(n, s.angular_length)])
