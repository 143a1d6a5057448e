"""Triton kernels of AEVs: forward and JVP in one, and the VJP; ``triton_engine`` launches them.

Arrays are in conformer order, so that a conformer's atoms are a run: ``coordinates``, ``tangents``
(N, 3), ``species`` (N,). By row are ``conformer`` (N,), the AEVs ``out``, and their gradients
``given`` (N, L); ``rows`` (N,) leads from an atom to its row. An atom looks for its neighbours in
``offsets[b]`` to ``offsets[b + 1]``, b being its conformer: there are no lists of pairs or triples,
and no synchronisation. A program owns one atom and all that is written for it, so nothing is added
atomically, and the same input gives the same bits.

The angular constants stand in tables with an entry for each column of a block, and lanes are
columns. Sums over neighbours are kept for each lane and reduced once, at the end.

A coordinate that is not finite makes AEVs NaN: comparisons are written so that NaN passes them.

Importing this module needs triton. With TRITON_INTERPRET=1 set before, the kernels run on the CPU.
"""

# mypy: allow-untyped-defs

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _add(a, b):
    # tl.sum and tl.zeros would be interpreted only if triton itself was imported with
    # TRITON_INTERPRET=1.
    return a + b


@triton.jit
def _neighbor(coordinates, atom, x, y, z, SHORTEST: tl.constexpr):
    """Unit vector from (x, y, z) to an atom, distance, and whether the distance may change."""
    dx = tl.load(coordinates + 3 * atom) - x
    dy = tl.load(coordinates + 3 * atom + 1) - y
    dz = tl.load(coordinates + 3 * atom + 2) - z
    squared = dx * dx + dy * dy + dz * dz
    close = squared < SHORTEST
    r = tl.sqrt(tl.where(close, SHORTEST, squared))
    return dx / r, dy / r, dz / r, r, tl.where(close, 0.0, 1.0)


@triton.jit
def _cutoff(r, CUTOFF: tl.constexpr):
    """fc, eq. 2, and its derivative."""
    angle = r * (3.141592653589793 / CUTOFF)
    return 0.5 * tl.cos(angle) + 0.5, (-0.5 * 3.141592653589793 / CUTOFF) * tl.sin(angle)


@triton.jit
def _radial(r, eta, shift, CUTOFF: tl.constexpr):
    """Terms of eq. 3 and their derivatives by the distance."""
    fc, slope = _cutoff(r, CUTOFF)
    apart = r - shift
    gaussian = 0.25 * tl.exp(-eta * apart * apart)
    return gaussian * fc, gaussian * (slope - 2.0 * eta * apart * fc)


@triton.jit
def _angular(c, rj, rk, eta, shift, zeta, cos_shift, sin_shift, SMALLEST: tl.constexpr):
    """Eq. 4 without fc, from the cosine c between unit vectors and both distances.

    Also its relative derivatives by either distance and by 0.95 c.
    """
    cos = 0.95 * c
    sin = tl.sqrt(1.0 - cos * cos)
    base = 0.5 + 0.5 * (cos * cos_shift + sin * sin_shift)
    low = base < SMALLEST
    base = tl.where(low, SMALLEST, base)
    apart = 0.5 * (rj + rk) - shift
    value = 2.0 * tl.exp(zeta * tl.log(base) - eta * apart * apart)
    by_cos = zeta * 0.5 * (cos_shift - (cos / sin) * sin_shift) / base
    return value, -eta * apart, tl.where(low, 0.0, by_cos)


@triton.jit
def _leg(given, c, fj, slope_j, fk, rj, value, by_r, by_cos):
    """Component of the gradient by atom j along the unit vectors to j and to k."""
    along_j = given * value * (slope_j * fk + by_r * fj * fk)
    turning = 0.95 * given * value * by_cos * fj * fk / rj
    return along_j - turning * c, turning


@triton.jit
def _tangent(tangents, atom, vx, vy, vz, ux, uy, uz, r, moves):
    """Derivatives of a distance and of a unit vector when its ends move."""
    wx = tl.load(tangents + 3 * atom) - vx
    wy = tl.load(tangents + 3 * atom + 1) - vy
    wz = tl.load(tangents + 3 * atom + 2) - vz
    dr = moves * (ux * wx + uy * wy + uz * wz)
    return dr, (wx - ux * dr) / r, (wy - uy * dr) / r, (wz - uz * dr) / r


@triton.jit
def aev_kernel(
    coordinates,
    tangents,
    species,
    rows,
    conformer,
    offsets,
    out,
    radial_table,
    angular_table,
    pair_index,
    ELEMENTS: tl.constexpr,
    PAIRS: tl.constexpr,
    RADIAL_TERMS: tl.constexpr,
    ANGULAR_TERMS: tl.constexpr,
    ELEMENT_BLOCK: tl.constexpr,
    PAIR_BLOCK: tl.constexpr,
    RADIAL_BLOCK: tl.constexpr,
    ANGULAR_BLOCK: tl.constexpr,
    RADIAL_CUTOFF: tl.constexpr,
    ANGULAR_CUTOFF: tl.constexpr,
    SHORTEST: tl.constexpr,
    SMALLEST: tl.constexpr,
    TANGENT: tl.constexpr,
):
    """Program (i, c): the AEV of atom i, or its derivative along ``tangents``.

    Of the angular blocks it has the PAIR_BLOCK from ``c * PAIR_BLOCK`` on; the first has the radial
    part.
    """
    kind = coordinates.dtype.element_ty
    i = tl.program_id(0)
    first_pair = tl.program_id(1) * PAIR_BLOCK
    row = tl.load(rows + i)
    b = tl.load(conformer + row)
    start = tl.load(offsets + b).to(tl.int32)
    end = tl.load(offsets + b + 1).to(tl.int32)
    x = tl.load(coordinates + 3 * i)
    y = tl.load(coordinates + 3 * i + 1)
    z = tl.load(coordinates + 3 * i + 2)
    if TANGENT:
        vx = tl.load(tangents + 3 * i)
        vy = tl.load(tangents + 3 * i + 1)
        vz = tl.load(tangents + 3 * i + 2)

    element = tl.arange(0, ELEMENT_BLOCK)
    pair = tl.arange(0, PAIR_BLOCK)
    t = tl.arange(0, RADIAL_BLOCK)
    q = tl.arange(0, ANGULAR_BLOCK)
    radial_eta = tl.load(radial_table + t, mask=t < RADIAL_TERMS, other=0.0)
    radial_shift = tl.load(radial_table + RADIAL_TERMS + t, mask=t < RADIAL_TERMS, other=0.0)
    here = q < ANGULAR_TERMS
    eta = tl.load(angular_table + q, mask=here, other=0.0)
    zeta = tl.load(angular_table + ANGULAR_TERMS + q, mask=here, other=0.0)
    shift = tl.load(angular_table + 2 * ANGULAR_TERMS + q, mask=here, other=0.0)
    cos_shift = tl.load(angular_table + 3 * ANGULAR_TERMS + q, mask=here, other=0.0)
    sin_shift = tl.load(angular_table + 4 * ANGULAR_TERMS + q, mask=here, other=0.0)

    # Not plain zeros: an atom at infinity has no neighbours, and its AEV must not be that of a
    # lone atom.
    nothing = 0.0 * (x + y + z)
    radial = tl.full((ELEMENT_BLOCK, RADIAL_BLOCK), 0.0, kind) + nothing
    angular = tl.full((PAIR_BLOCK, ANGULAR_BLOCK), 0.0, kind) + nothing
    for j in range(start, end):
        ux, uy, uz, rj, moves_j = _neighbor(coordinates, j, x, y, z, SHORTEST)
        if (j != i) & ((rj > RADIAL_CUTOFF) == 0):
            sj = tl.load(species + j)
            if TANGENT:
                drj, dux, duy, duz = _tangent(tangents, j, vx, vy, vz, ux, uy, uz, rj, moves_j)
            if first_pair == 0:
                shell, by_distance = _radial(rj, radial_eta, radial_shift, RADIAL_CUTOFF)
                if TANGENT:
                    shell = by_distance * drj
                radial += tl.where(element[:, None] == sj, shell[None, :], 0.0)
            if (rj > ANGULAR_CUTOFF) == 0:
                fj, slope_j = _cutoff(rj, ANGULAR_CUTOFF)
                for k in range(j + 1, end):
                    wx, wy, wz, rk, moves_k = _neighbor(coordinates, k, x, y, z, SHORTEST)
                    if (k != i) & ((rk > ANGULAR_CUTOFF) == 0):
                        place = tl.load(pair_index + sj * ELEMENTS + tl.load(species + k))
                        fk, slope_k = _cutoff(rk, ANGULAR_CUTOFF)
                        c = ux * wx + uy * wy + uz * wz
                        value, by_r, by_cos = _angular(
                            c, rj, rk, eta, shift, zeta, cos_shift, sin_shift, SMALLEST
                        )
                        if TANGENT:
                            drk, dwx, dwy, dwz = _tangent(
                                tangents, k, vx, vy, vz, wx, wy, wz, rk, moves_k
                            )
                            dc = ux * dwx + uy * dwy + uz * dwz + wx * dux + wy * duy + wz * duz
                            value *= (
                                slope_j * drj * fk
                                + slope_k * drk * fj
                                + fj * fk * (by_r * (drj + drk) + by_cos * (0.95 * dc))
                            )
                        else:
                            value *= fj * fk
                        angular += tl.where(
                            pair[:, None] + first_pair == place, value[None, :], 0.0
                        )

    out += row.to(tl.int64) * (ELEMENTS * RADIAL_TERMS + PAIRS * ANGULAR_TERMS)
    if first_pair == 0:
        inside = (element[:, None] < ELEMENTS) & (t[None, :] < RADIAL_TERMS)
        tl.store(out + element[:, None] * RADIAL_TERMS + t[None, :], radial, mask=inside)
    out += ELEMENTS * RADIAL_TERMS
    pair += first_pair
    inside = (pair[:, None] < PAIRS) & here[None, :]
    tl.store(out + pair[:, None] * ANGULAR_TERMS + q[None, :], angular, mask=inside)


@triton.jit
def vjp_kernel(
    coordinates,
    species,
    rows,
    conformer,
    offsets,
    given,
    out,
    radial_table,
    angular_table,
    pair_index,
    ELEMENTS: tl.constexpr,
    PAIRS: tl.constexpr,
    RADIAL_TERMS: tl.constexpr,
    ANGULAR_TERMS: tl.constexpr,
    RADIAL_BLOCK: tl.constexpr,
    ANGULAR_BLOCK: tl.constexpr,
    RADIAL_CUTOFF: tl.constexpr,
    ANGULAR_CUTOFF: tl.constexpr,
    SHORTEST: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """Program m: the gradient (3,) of ``given . AEV`` by atom m, in ``out`` (N, 3) by row.

    An atom is in its own AEV, as centre of pairs of neighbours, and in those of its neighbours, as
    an end: so every triple is looked at by each of its three atoms, and none adds to another's.
    """
    kind = coordinates.dtype.element_ty
    m = tl.program_id(0)
    row = tl.load(rows + m).to(tl.int64)
    b = tl.load(conformer + row)
    start = tl.load(offsets + b).to(tl.int32)
    end = tl.load(offsets + b + 1).to(tl.int32)
    x = tl.load(coordinates + 3 * m)
    y = tl.load(coordinates + 3 * m + 1)
    z = tl.load(coordinates + 3 * m + 2)
    sm = tl.load(species + m)

    t = tl.arange(0, RADIAL_BLOCK)
    q = tl.arange(0, ANGULAR_BLOCK)
    there = t < RADIAL_TERMS
    radial_eta = tl.load(radial_table + t, mask=there, other=0.0)
    radial_shift = tl.load(radial_table + RADIAL_TERMS + t, mask=there, other=0.0)
    here = q < ANGULAR_TERMS
    eta = tl.load(angular_table + q, mask=here, other=0.0)
    zeta = tl.load(angular_table + ANGULAR_TERMS + q, mask=here, other=0.0)
    shift = tl.load(angular_table + 2 * ANGULAR_TERMS + q, mask=here, other=0.0)
    cos_shift = tl.load(angular_table + 3 * ANGULAR_TERMS + q, mask=here, other=0.0)
    sin_shift = tl.load(angular_table + 4 * ANGULAR_TERMS + q, mask=here, other=0.0)

    LENGTH: tl.constexpr = ELEMENTS * RADIAL_TERMS + PAIRS * ANGULAR_TERMS
    own_radial = given + row * LENGTH + t
    own_angular = given + row * LENGTH + ELEMENTS * RADIAL_TERMS + q
    nothing = 0.0 * (x + y + z)  # see aev_kernel
    radial_x = tl.full((RADIAL_BLOCK,), 0.0, kind) + nothing
    radial_y = tl.full((RADIAL_BLOCK,), 0.0, kind) + nothing
    radial_z = tl.full((RADIAL_BLOCK,), 0.0, kind) + nothing
    angular_x = tl.full((ANGULAR_BLOCK,), 0.0, kind)
    angular_y = tl.full((ANGULAR_BLOCK,), 0.0, kind)
    angular_z = tl.full((ANGULAR_BLOCK,), 0.0, kind)
    for j in range(start, end):
        ux, uy, uz, rj, moves_j = _neighbor(coordinates, j, x, y, z, SHORTEST)
        if (j != m) & ((rj > RADIAL_CUTOFF) == 0):
            sj = tl.load(species + j)
            row_j = tl.load(rows + j).to(tl.int64) * LENGTH
            _, by_distance = _radial(rj, radial_eta, radial_shift, RADIAL_CUTOFF)
            weight = tl.load(own_radial + sj * RADIAL_TERMS, mask=there, other=0.0)
            weight += tl.load(given + row_j + sm * RADIAL_TERMS + t, mask=there, other=0.0)
            weight *= by_distance * moves_j
            radial_x -= weight * ux
            radial_y -= weight * uy
            radial_z -= weight * uz
            if (rj > ANGULAR_CUTOFF) == 0:
                fj, slope_j = _cutoff(rj, ANGULAR_CUTOFF)
                xj = tl.load(coordinates + 3 * j)
                yj = tl.load(coordinates + 3 * j + 1)
                zj = tl.load(coordinates + 3 * j + 2)
                other_angular = given + row_j + ELEMENTS * RADIAL_TERMS + q
                for k in range(start, end):
                    if (k != m) & (k != j):
                        sk = tl.load(species + k)
                        # m is the centre of j and k: once for both orders of these.
                        wx, wy, wz, rk, moves_k = _neighbor(coordinates, k, x, y, z, SHORTEST)
                        if (k > j) & ((rk > ANGULAR_CUTOFF) == 0):
                            fk, slope_k = _cutoff(rk, ANGULAR_CUTOFF)
                            place = tl.load(pair_index + sj * ELEMENTS + sk)
                            g = tl.load(own_angular + place * ANGULAR_TERMS, mask=here, other=0.0)
                            c = ux * wx + uy * wy + uz * wz
                            value, by_r, by_cos = _angular(
                                c, rj, rk, eta, shift, zeta, cos_shift, sin_shift, SMALLEST
                            )
                            to_j, j_to_k = _leg(g, c, fj, slope_j, fk, rj, value, by_r, by_cos)
                            to_k, k_to_j = _leg(g, c, fk, slope_k, fj, rk, value, by_r, by_cos)
                            on_u = to_j * moves_j + k_to_j
                            on_w = to_k * moves_k + j_to_k
                            angular_x -= on_u * ux + on_w * wx
                            angular_y -= on_u * uy + on_w * wy
                            angular_z -= on_u * uz + on_w * wz
                        # j is the centre of m and k.
                        wx, wy, wz, rk, moves_k = _neighbor(coordinates, k, xj, yj, zj, SHORTEST)
                        if (rk > ANGULAR_CUTOFF) == 0:
                            fk, slope_k = _cutoff(rk, ANGULAR_CUTOFF)
                            place = tl.load(pair_index + sm * ELEMENTS + sk)
                            g = tl.load(other_angular + place * ANGULAR_TERMS, mask=here, other=0.0)
                            c = -(ux * wx + uy * wy + uz * wz)
                            value, by_r, by_cos = _angular(
                                c, rj, rk, eta, shift, zeta, cos_shift, sin_shift, SMALLEST
                            )
                            on_u, on_w = _leg(g, c, fj, slope_j, fk, rj, value, by_r, by_cos)
                            on_u *= moves_j
                            angular_x += on_w * wx - on_u * ux
                            angular_y += on_w * wy - on_u * uy
                            angular_z += on_w * wz - on_u * uz

    tl.store(out + 3 * row, tl.reduce(radial_x, 0, _add) + tl.reduce(angular_x, 0, _add))
    tl.store(out + 3 * row + 1, tl.reduce(radial_y, 0, _add) + tl.reduce(angular_y, 0, _add))
    tl.store(out + 3 * row + 2, tl.reduce(radial_z, 0, _add) + tl.reduce(angular_z, 0, _add))
