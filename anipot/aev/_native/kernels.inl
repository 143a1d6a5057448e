// AEVs of the atoms of one conformer, and their derivatives.
//
// Included once for each instruction set, inside that set's namespace, after simd.inl.
// Source: Smith, Isayev, Roitberg, Chem. Sci. 2017, 8, 3192, eqs. 2 to 4, with NeuroChem's prefactors
// 0.25 and 2 and theta = acos(0.95 cos). With c = 0.95 cos and s = sqrt(1 - c^2), the angular base is
// h_q = (1 + c cos(ShfZ_q) + s sin(ShfZ_q)) / 2 and a block is a sum of outer products
//     weight * gauss_p * power_q,   weight = 2 fc fc',   gauss_p = exp(-EtaA (mean - ShfA_p)^2),
//     power_q = h_q^Zeta,
// of which all three modes need only the factors and their derivatives by distance and by c.

constexpr double LOG2E = 1.4426950408889634074;
constexpr double PI = 3.14159265358979323846;
constexpr double NARROW = 0.95;

// Atoms closer than 1e-5 angstrom count as 1e-5 apart and get no derivative along their distance,
// as in the reference engine: coincident atoms give finite numbers.
constexpr double SHORTEST_SQUARED = 1e-10;

// Squared distance of an atom from itself, as far as neighbours are concerned: beyond any cutoff.
constexpr double ITSELF = 1e30;

// Largest molecule all of whose atoms are listed as neighbours.
constexpr int DENSE = 32;

// Whether to stop, asked after so many more neighbours or triples.
template <class T>
INLINE bool pause(Conformer<T>& m, int work) {
    m.work += work;
    if (m.work > PAUSE) {
        m.work = 0;
        m.halted = m.halted || (m.stopped && m.stopped(m.watch));
    }
    return m.halted;
}

// ---- neighbours ----------------------------------------------------------------------------------

template <class T>
INLINE Int<T> lanes() {
    Int<T> lane;
    for (int l = 0; l < Simd<T>::W; l++) lane[l] = l;
    return lane;
}

// The list is read in whole vectors: what stands behind it must be numbers.
template <class T>
INLINE void end_list(Scratch<T>& s, int n) {
    for (int k = n; k < n + Simd<T>::W; k++) s.r2[k] = T(1);
    s.n = n;
}

template <class T>
void neighbours_all_pairs(const Constants<T>& c, const Conformer<T>& m, Scratch<T>& s, int i) {
    constexpr int W = Simd<T>::W;
    using V = Vec<T>;
    s.reserve(m.n + PAD, c);
    // In a small molecule nearly every atom is a neighbour: those that are not get no weight, and the
    // list is all atoms. Picking them one by one would cost more than their functions do.
    const bool dense = m.n <= DENSE;
    // Memory of the angular neighbours, free at this time, takes all distances of a larger molecule.
    T *x = dense ? s.dx : s.ux, *y = dense ? s.dy : s.uy, *z = dense ? s.dz : s.uz;
    T* q = dense ? s.r2 : s.ar;
    const T xi = m.x[i], yi = m.y[i], zi = m.z[i];
    const Int<T> lane = lanes<T>();
    for (int j = 0; j < m.n; j += W) {
        const V a = load<V>(&m.x[j]) - xi, b = load<V>(&m.y[j]) - yi, d = load<V>(&m.z[j]) - zi;
        const V squared = a * a + b * b + d * d;
        store(x + j, a);
        store(y + j, b);
        store(z + j, d);
        store(q + j, lane == (Int<T>{} + (i - j)) ? V{} + T(ITSELF) : squared);
    }
    if (dense) {
        for (int j = 0; j < m.n; j++) s.candidate[j] = j;
        for (int e = 0; e <= c.elements; e++) s.segment[e] = m.first[e];
        s.n = m.n;
        return;
    }
    const T limit = T(c.radial_cutoff) * T(c.radial_cutoff);
    int n = 0;
    for (int e = 0; e < c.elements; e++) {
        s.segment[e] = n;
        for (int j = m.first[e]; j < m.first[e + 1]; j++) {
            s.dx[n] = x[j];
            s.dy[n] = y[j];
            s.dz[n] = z[j];
            s.r2[n] = q[j];
            s.candidate[n] = j;
            n += q[j] <= limit;
        }
    }
    s.segment[c.elements] = n;
    end_list(s, n);
}

template <class T>
void neighbours_grid(const Constants<T>& c, Conformer<T>& m, Scratch<T>& s, int i) {
    const Grid& g = *m.grid;
    const double x = g.cx[i], y = g.cy[i], z = g.cz[i];
    const double at[3] = {x, y, z};
    int from[3], to[3];
    for (int a = 0; a < 3; a++) {
        int b = static_cast<int>((at[a] - g.low[a]) * g.scale[a]);
        b = b < 0 ? 0 : b >= g.bins[a] ? g.bins[a] - 1 : b;
        from[a] = b > 0 ? b - 1 : 0;
        to[a] = b + 1 < g.bins[a] ? b + 1 : b;
    }
    int bound = 0;
    for (int a = from[0]; a <= to[0]; a++)
        for (int b = from[1]; b <= to[1]; b++) {
            const int line = (a * g.bins[1] + b) * g.bins[2];
            bound += g.start[line + to[2] + 1] - g.start[line + from[2]];
        }
    // One more than there may be: enough to see that there are too many.
    const int most = c.most_radial;
    s.reserve((bound < most ? bound : most + 1) + PAD, c);
    const double limit = c.radial_cutoff * c.radial_cutoff;
    int n = 0;
    for (int a = from[0]; a <= to[0]; a++)
        for (int b = from[1]; b <= to[1]; b++) {
            const int line = (a * g.bins[1] + b) * g.bins[2];
            const int end = g.start[line + to[2] + 1];
            for (int k = g.start[line + from[2]]; k < end && n <= most; k++) {
                const double dx = g.x[k] - x, dy = g.y[k] - y, dz = g.z[k] - z;
                s.order[n] = k;
                const int near = dx * dx + dy * dy + dz * dz <= limit;
                const int itself = (g.home[k] == i) & int(g.is_home[k]);
                n += near & ~itself;
            }
        }
    if (n > most) {
        m.crowded_radial = true;
        return;
    }
    // Into the order of elements, by counting.
    int* place = s.segment.data();
    for (int e = 0; e <= c.elements; e++) place[e] = 0;
    for (int k = 0; k < n; k++) place[m.species[g.home[s.order[k]]] + 1]++;
    for (int e = 0; e < c.elements; e++) place[e + 1] += place[e];
    for (int k = 0; k < n; k++) {
        const int o = s.order[k];
        const int p = place[m.species[g.home[o]]]++;
        const double dx = g.x[o] - x, dy = g.y[o] - y, dz = g.z[o] - z;
        s.dx[p] = T(dx);
        s.dy[p] = T(dy);
        s.dz[p] = T(dz);
        s.r2[p] = T(dx * dx + dy * dy + dz * dz);
        s.candidate[p] = o;
    }
    for (int e = c.elements; e > 0; e--) place[e] = place[e - 1];
    place[0] = 0;
    end_list(s, n);
}

// Lattice vectors between atom i and its neighbour k of the list.
template <class T>
INLINE void lattice_shift(const Conformer<T>& m, const Scratch<T>& s, int i, int k, int out[3]) {
    const Grid& g = *m.grid;
    for (int a = 0; a < 3; a++) out[a] = g.shift[3 * s.candidate[k] + a] - g.wrap[3 * i + a];
}

// fc = 0.5 cos(pi r / Rc) + 0.5 = sin^2(w) with w = pi/2 (1 - r / Rc): accurate down to the cutoff.
template <class T>
INLINE void cutoff(Vec<T> r, T rc, Vec<T>& fc, Vec<T>& dfc) {
    const Vec<T> w = T(PI / 2) - r * T(PI / 2 / double(rc));
    Vec<T> sine, cosine;
    sincosv<T>(w, sine, cosine);
    fc = sine * sine;
    dfc = sine * cosine * T(-PI / double(rc));
}

// The neighbours within the angular cutoff, picked out of the list: displacements and squared
// distances, in ux, uy, uz and ar until ``describe_angular`` makes more of them.
//
// Vectors read much later what is written here number by number: read at once, they would wait until
// the last number has left the store buffer.
template <class T>
void pick_angular(const Constants<T>& c, Scratch<T>& s) {
    constexpr int W = Simd<T>::W;
    const T limit = T(c.angular_cutoff) * T(c.angular_cutoff);
    int n = 0;
    for (int e = 0; e < c.elements; e++) {
        s.a_segment[e] = n;
        for (int k = s.segment[e]; k < s.segment[e + 1]; k++) {
            s.ux[n] = s.dx[k];
            s.uy[n] = s.dy[k];
            s.uz[n] = s.dz[k];
            s.ar[n] = s.r2[k];
            s.of[n] = k;
            n += s.r2[k] <= limit;
        }
    }
    s.a_segment[c.elements] = s.na = n;
    for (int a = n; a < n + W; a++) {
        s.ux[a] = s.uy[a] = s.uz[a] = T(0);
        s.ar[a] = T(1);
    }
}

// Distances, cutoff functions and tangents of the neighbours.
template <class T, int MODE>
void describe_radial(const Constants<T>& c, const Conformer<T>& m, Scratch<T>& s, int i) {
    using V = Vec<T>;
    const V shortest = V{} + T(SHORTEST_SQUARED), zero{};
    const V limit = V{} + T(c.radial_cutoff) * T(c.radial_cutoff);
    for (int k = 0; k < s.n; k += Simd<T>::W) {
        const V q = load<V>(s.r2 + k);
        const V longest = q < limit ? q : limit;
        const V r = sqrtv<T>(longest > shortest ? longest : shortest);
        V fc, dfc;
        cutoff<T>(r, T(c.radial_cutoff), fc, dfc);
        store(s.r + k, r);
        store(s.fc + k, q <= limit ? fc * T(0.25) : zero);
        store(s.dfc + k, q <= limit ? dfc * T(0.25) : zero);
        if constexpr (MODE != FORWARD) {
            store(s.along + k, q > shortest ? V{} + T(1) : zero);
            store(s.inv + k, T(1) / r);
        }
    }
    if constexpr (MODE == JVP) {
        for (int k = 0; k < s.n; k++) {
            const int j = m.grid ? m.grid->home[s.candidate[k]] : s.candidate[k];
            T t[3] = {m.tx[j] - m.tx[i], m.ty[j] - m.ty[i], m.tz[j] - m.tz[i]};
            if (m.with_cell) {
                int shift[3];
                lattice_shift(m, s, i, k, shift);
                for (int a = 0; a < 3; a++)
                    for (int b = 0; b < 3; b++)
                        if (shift[a]) t[b] += T(shift[a] * m.cell_tangent[3 * a + b]);
            }
            s.tx[k] = t[0];
            s.ty[k] = t[1];
            s.tz[k] = t[2];
            s.dr[k] = s.along[k] * s.inv[k] * (s.dx[k] * t[0] + s.dy[k] * t[1] + s.dz[k] * t[2]);
        }
    }
}

// The same of the neighbours within the angular cutoff, and their unit vectors.
template <class T, int MODE>
void describe_angular(const Constants<T>& c, Scratch<T>& s) {
    constexpr int W = Simd<T>::W;
    using V = Vec<T>;
    const V shortest = V{} + T(SHORTEST_SQUARED), zero{};
    for (int a = 0; a < s.na; a += W) {
        const V q = load<V>(s.ar + a);
        const V r = sqrtv<T>(q > shortest ? q : shortest);
        const V inv = T(1) / r;
        V fc, dfc;
        cutoff<T>(r, T(c.angular_cutoff), fc, dfc);
        store(s.ar + a, r);
        store(s.ux + a, load<V>(s.ux + a) * inv);
        store(s.uy + a, load<V>(s.uy + a) * inv);
        store(s.uz + a, load<V>(s.uz + a) * inv);
        store(s.afc + a, fc);
        if constexpr (MODE != FORWARD) {
            store(s.adfc + a, dfc);
            store(s.ainv + a, inv);
            store(s.aalong + a, q > shortest ? V{} + T(1) : zero);
        }
    }
    if constexpr (MODE == JVP) {
        for (int a = 0; a < s.na; a++) {
            const int k = s.of[a];
            const T dr = s.dr[k], inv = s.ainv[a];
            s.adr[a] = dr;
            s.vx[a] = (s.tx[k] - s.ux[a] * dr) * inv;
            s.vy[a] = (s.ty[k] - s.uy[a] * dr) * inv;
            s.vz[a] = (s.tz[k] - s.uz[a] * dr) * inv;
        }
        for (int a = s.na; a < s.na + W; a++) s.adr[a] = s.vx[a] = s.vy[a] = s.vz[a] = T(0);
    }
}

// ---- radial part ---------------------------------------------------------------------------------

template <class T, int MODE>
void radial(const Constants<T>& c, Scratch<T>& s, const T* in, T* out) {
    constexpr int W = Simd<T>::W;
    using V = Vec<T>;
    if constexpr (MODE == VJP)
        for (int k = 0; k < s.n; k++) s.gr[k] = T(0);
    for (int e = 0; e < c.elements; e++) {
        const int from = s.segment[e], to = s.segment[e + 1];
        if (from == to) continue;
        for (int v = 0; v < c.radial_terms; v += W) {
            const V shift = load<V>(&c.radial_shift[v]), eta = load<V>(&c.radial_eta[v]);
            const V minus_eta2 = eta * T(-LOG2E);
            const int left = c.radial_terms - v;
            const bool whole = left >= W;
            T edge[W] = {};
            if constexpr (MODE == VJP) {
                const T* g = in + e * c.radial_terms + v;
                if (!whole) std::memcpy(edge, g, left * sizeof(T));
                const V gradient = load<V>(whole ? g : edge);
                for (int k = from; k < to; k++) {
                    const V x = s.r[k] - shift;
                    const V gauss = exp2v<T>(minus_eta2 * x * x);
                    const V slope = s.dfc[k] - (T(2) * s.fc[k]) * (eta * x);
                    s.gr[k] += sum_lanes<T>(gradient * gauss * slope);
                }
            } else {
                V sum = V{};
                for (int k = from; k < to; k++) {
                    const V x = s.r[k] - shift;
                    const V gauss = exp2v<T>(minus_eta2 * x * x);
                    if constexpr (MODE == FORWARD) {
                        sum += gauss * s.fc[k];
                    } else {
                        const T dr = s.dr[k];
                        sum += gauss * (s.dfc[k] * dr - (T(2) * s.fc[k] * dr) * (eta * x));
                    }
                }
                T* o = out + e * c.radial_terms + v;
                if (whole) {
                    store(o, sum);
                } else {
                    store(edge, sum);
                    std::memcpy(o, edge, left * sizeof(T));
                }
            }
        }
    }
}

// ---- factors of the angular part -----------------------------------------------------------------

// Cosines, mean distances and weights of the triples of neighbours j, k > j with first <= j < last.
template <class T, int MODE>
int describe_triples(Scratch<T>& s, int first, int last) {
    constexpr int W = Simd<T>::W;
    using V = Vec<T>;
    int total = 0;
    for (int j = first; j < last; j++) {
        const T ux = s.ux[j], uy = s.uy[j], uz = s.uz[j], r = s.ar[j], fc2 = 2 * s.afc[j];
        // A row's last vector may write past its end: the next row comes after it.
        for (int k = j + 1, t = s.row_start[j]; k < s.na; k += W, t += W) {
            const V wx = load<V>(s.ux + k), wy = load<V>(s.uy + k), wz = load<V>(s.uz + k);
            const V c = (wx * ux + wy * uy + wz * uz) * T(NARROW);
            const V fck = load<V>(s.afc + k);
            const V weight = fck * fc2;
            store(s.cosine + t, c);
            // Rounding cannot make this negative: |c| stays below 0.95 (1 + a few eps).
            const V sine = sqrtv<T>(T(1) - c * c);
            store(s.sine + t, sine);
            if constexpr (MODE != FORWARD) store(s.ratio + t, c / sine);
            store(s.mean + t, (load<V>(s.ar + k) + r) * T(0.5));
            store(s.weight + t, weight);
            if constexpr (MODE == JVP) {
                const T dr = s.adr[j];
                const V drk = load<V>(s.adr + k);
                const V d_cos = wx * s.vx[j] + wy * s.vy[j] + wz * s.vz[j] +
                                load<V>(s.vx + k) * ux + load<V>(s.vy + k) * uy + load<V>(s.vz + k) * uz;
                store(s.d_cos + t, weight * d_cos * T(NARROW));
                store(s.d_mean + t, weight * (drk + dr) * T(0.5));
                store(s.d_weight + t,
                      fck * (2 * s.adfc[j] * dr) + load<V>(s.adfc + k) * drk * fc2);
            }
        }
        total = s.row_start[j] + s.na - 1 - j;
    }
    return total;
}

// h^Zeta with h = 1 - base, and with SLOPE its derivative by c.
//
// A power multiplies the rounding of h by Zeta. What rounding takes from 1 - base is known exactly
// and given back to first order.
template <class T, bool SLOPE, class Power>
INLINE void powers(const T* base, const T* d_base, T* power, T* d_power, int n, T zeta, Power raise) {
    using V = Vec<T>;
    for (int k = 0; k < n; k += Simd<T>::W) {
        const V d = load<V>(base + k);
        const V h = T(1) - d;
        const V lost = (T(1) - h) - d;
        const V below = raise(h);  // h^(Zeta - 1)
        store(power + k, below * (h + lost * zeta));
        if constexpr (SLOPE) store(d_power + k, below * load<V>(d_base + k) * zeta);
    }
}

template <class T, int MODE, int KIND>
void factors(const Constants<T>& c, Scratch<T>& s, int total) {
    using S = Simd<T>;
    using V = Vec<T>;
    constexpr bool SLOPE = MODE != FORWARD;
    const int shifts = KIND == 1 ? 4 : KIND == 2 ? 8 : c.n_shift;
    const int angles = KIND == 1 ? 8 : KIND == 2 ? 4 : c.n_angle;
    if constexpr (KIND == 0) {
        for (int t = 0; t < total; t++) {
            for (int p = 0; p < shifts; p++) s.offset[t * shifts + p] = s.mean[t] - c.angular_shift[p];
            for (int q = 0; q < angles; q++) {
                s.base[t * angles + q] =
                    T(0.5) - s.cosine[t] * c.half_cos[q] - s.sine[t] * c.half_sin[q];
                if constexpr (SLOPE)
                    s.d_base[t * angles + q] = c.half_cos[q] - s.ratio[t] * c.half_sin[q];
            }
        }
    } else {
        using P = std::conditional_t<KIND == 1, typename S::V4, typename S::V8>;
        using Q = std::conditional_t<KIND == 1, typename S::V8, typename S::V4>;
        const P shift = load<P>(c.angular_shift.data());
        const Q half_cos = load<Q>(c.half_cos.data()), half_sin = load<Q>(c.half_sin.data());
        for (int t = 0; t < total; t++) {
            store(s.offset + t * shifts, s.mean[t] - shift);
            store(s.base + t * angles, T(0.5) - s.cosine[t] * half_cos - s.sine[t] * half_sin);
            if constexpr (SLOPE) store(s.d_base + t * angles, half_cos - s.ratio[t] * half_sin);
        }
    }
    for (int e = 0; e < c.n_eta; e++) {
        const T eta = c.angular_eta[e];
        T *gauss = s.gauss + e * s.stride_gauss, *slope = s.d_gauss + e * s.stride_gauss;
        for (int k = 0; k < total * shifts; k += S::W) {
            const V x = load<V>(s.offset + k);
            const V g = exp2v<T>(x * x * T(-LOG2E * double(eta)));
            store(gauss + k, g);
            if constexpr (SLOPE) store(slope + k, g * x * (T(-2) * eta));
        }
    }
    for (int z = 0; z < c.n_zeta; z++) {
        const T zeta = c.zeta[z];
        T *power = s.power + z * s.stride_power, *slope = s.d_power + z * s.stride_power;
        const int n = total * angles, whole = c.whole_zeta[z];
        if (whole == 32) {
            powers<T, SLOPE>(s.base, s.d_base, power, slope, n, zeta, [](V h) INLINE_LAMBDA {
                const V h3 = h * h * h, h7 = h3 * h3 * h, h15 = h7 * h7 * h;
                return h15 * h15 * h;
            });
        } else if (whole) {
            powers<T, SLOPE>(s.base, s.d_base, power, slope, n, zeta, [whole](V h) INLINE_LAMBDA {
                V result = V{} + T(1);
                for (int bit = whole - 1; bit; bit >>= 1, h *= h)
                    if (bit & 1) result *= h;
                return result;
            });
        } else {
            powers<T, SLOPE>(s.base, s.d_base, power, slope, n, zeta, [zeta](V h) INLINE_LAMBDA {
                h = h > S::tiny ? h : V{} + S::tiny;  // rounding may leave it below 0
                return exp2v<T>(log2v<T>(h) * (zeta - 1));
            });
        }
    }
}

// ---- products of the factors ---------------------------------------------------------------------

// Calls body(first column of the block, runs), for each pair of elements among the block's triples.
// runs(f) calls f(t) for the triples t of that pair, in a fixed order.
template <class T, class Body>
INLINE void each_pair(const Constants<T>& c, Scratch<T>& s, int first, int last, int present, Body body) {
    for (int p = 0; p < present; p++) {
        const int a = s.present[p];
        const int from = s.a_segment[a] > first ? s.a_segment[a] : first;
        const int to = s.a_segment[a + 1] < last ? s.a_segment[a + 1] : last;
        if (from >= to) continue;
        for (int q = p; q < present; q++) {
            const int b = s.present[q], start = s.a_segment[b], end = s.a_segment[b + 1];
            if (p == q && from + 1 >= end) continue;
            body(c.block[a * c.elements + b], [&](auto f) INLINE_LAMBDA {
                for (int j = from; j < to; j++) {
                    const int shift = s.row_start[j] - j - 1;
                    for (int k = start > j ? start : j + 1; k < end; k++) f(k + shift);
                }
            });
        }
    }
}

// Blocks of 4 x 8 (KIND 1, as ANI-1x) and 8 x 4 (KIND 2, as ANI-2x): the factor with 8 values is a
// vector, that with 4 is taken number by number.
template <class T, int MODE, int KIND>
void products_4x8(const Constants<T>& c, Scratch<T>& s, int first, int last, int present, const T* in,
                  T* out) {
    using V8 = typename Simd<T>::V8;
    constexpr bool ANGLES = KIND == 1;  // whether the vector is the angular factor
    const T* X = ANGLES ? s.power : s.gauss;
    const T* dX = ANGLES ? s.d_power : s.d_gauss;
    const T* Y = ANGLES ? s.gauss : s.power;
    const T* dY = ANGLES ? s.d_gauss : s.d_power;
    T* sum_x = ANGLES ? s.sum_angle : s.sum_shift;
    T* sum_y = ANGLES ? s.sum_shift : s.sum_angle;
    const T* tangent_x = ANGLES ? s.d_cos : s.d_mean;
    const T* tangent_y = ANGLES ? s.d_mean : s.d_cos;
    each_pair(c, s, first, last, present, [&](int column, auto runs) INLINE_LAMBDA {
        if constexpr (MODE == VJP) {
            const T* g = in + column;
            V8 G[4];
            for (int y = 0; y < 4; y++)
                for (int x = 0; x < 8; x++) G[y][x] = ANGLES ? g[y * 8 + x] : g[x * 4 + y];
            const V8 g0 = G[0], g1 = G[1], g2 = G[2], g3 = G[3];
            runs([&](int t) INLINE_LAMBDA {
                const T *y = Y + 4 * t, *dy = dY + 4 * t;
                const V8 x = load<V8>(X + 8 * t);
                const V8 u = g0 * y[0] + g1 * y[1] + g2 * y[2] + g3 * y[3];
                const V8 du = g0 * dy[0] + g1 * dy[1] + g2 * dy[2] + g3 * dy[3];
                s.sum[t] = sum_lanes<T>(u * x);
                sum_x[t] = sum_lanes<T>(u * load<V8>(dX + 8 * t));
                sum_y[t] = sum_lanes<T>(du * x);
            });
        } else {
            V8 s0{}, s1{}, s2{}, s3{};
            runs([&](int t) INLINE_LAMBDA {
                const T* y = Y + 4 * t;
                V8 x = load<V8>(X + 8 * t);
                if constexpr (MODE == JVP) {
                    const T* dy = dY + 4 * t;
                    const V8 x2 = x * tangent_y[t];
                    x = x * s.d_weight[t] + load<V8>(dX + 8 * t) * tangent_x[t];
                    s0 += x2 * dy[0];
                    s1 += x2 * dy[1];
                    s2 += x2 * dy[2];
                    s3 += x2 * dy[3];
                } else {
                    x *= s.weight[t];
                }
                s0 += x * y[0];
                s1 += x * y[1];
                s2 += x * y[2];
                s3 += x * y[3];
            });
            T* o = out + column;
            if constexpr (ANGLES) {
                if (first == 0) {  // nothing there yet: do not wait for memory to say so
                    store(o, s0);
                    store(o + 8, s1);
                    store(o + 16, s2);
                    store(o + 24, s3);
                    return;
                }
                store(o, load<V8>(o) + s0);
                store(o + 8, load<V8>(o + 8) + s1);
                store(o + 16, load<V8>(o + 16) + s2);
                store(o + 24, load<V8>(o + 24) + s3);
            } else {
                T block[32];
                for (int x = 0; x < 8; x++) {
                    block[4 * x] = s0[x];
                    block[4 * x + 1] = s1[x];
                    block[4 * x + 2] = s2[x];
                    block[4 * x + 3] = s3[x];
                }
                if (first == 0)
                    std::memcpy(o, block, sizeof(block));
                else
                    for (int k = 0; k < 32; k++) o[k] += block[k];
            }
        }
    });
}

// Blocks of any size.
template <class T, int MODE>
void products_any(const Constants<T>& c, Scratch<T>& s, int first, int last, int present, const T* in,
                  T* out) {
    const int np = c.n_shift, nq = c.n_angle;
    each_pair(c, s, first, last, present, [&](int column, auto runs) INLINE_LAMBDA {
        runs([&](int t) INLINE_LAMBDA {
            T sum = 0, sum_shift = 0, sum_angle = 0;
            int at = column;
            for (int e = 0; e < c.n_eta; e++)
                for (int z = 0; z < c.n_zeta; z++)
                    for (int p = 0; p < np; p++, at += nq) {
                        const T* power = s.power + z * s.stride_power + t * nq;
                        const T* d_power = s.d_power + z * s.stride_power + t * nq;
                        const T g = s.gauss[e * s.stride_gauss + t * np + p];
                        if constexpr (MODE == FORWARD) {
                            const T w = g * s.weight[t];
                            for (int q = 0; q < nq; q++) out[at + q] += w * power[q];
                        } else {
                            const T dg = s.d_gauss[e * s.stride_gauss + t * np + p];
                            if constexpr (MODE == JVP) {
                                const T w = s.d_weight[t] * g + s.d_mean[t] * dg, wc = s.d_cos[t] * g;
                                for (int q = 0; q < nq; q++)
                                    out[at + q] += w * power[q] + wc * d_power[q];
                            } else {
                                T a = 0, b = 0;
                                for (int q = 0; q < nq; q++) {
                                    a += in[at + q] * power[q];
                                    b += in[at + q] * d_power[q];
                                }
                                sum += g * a;
                                sum_shift += dg * a;
                                sum_angle += g * b;
                            }
                        }
                    }
            if constexpr (MODE == VJP) {
                s.sum[t] = sum;
                s.sum_shift[t] = sum_shift;
                s.sum_angle[t] = sum_angle;
            }
        });
    });
}

// ---- gradient ------------------------------------------------------------------------------------

// From the derivatives by weight, mean distance and c to those by the neighbours' displacements.
template <class T>
void gradient_of_triples(Scratch<T>& s, int first, int last) {
    constexpr int W = Simd<T>::W;
    using V = Vec<T>;
    using I = Int<T>;
    const I lane = lanes<T>();
    for (int j = first; j < last; j++) {
        const T ux = s.ux[j], uy = s.uy[j], uz = s.uz[j];
        const T fc2 = 2 * s.afc[j], dfc2 = 2 * s.adfc[j], inv = s.ainv[j];
        V by_r{}, by_c{}, gx{}, gy{}, gz{};
        for (int k = j + 1, t = s.row_start[j]; k < s.na; k += W, t += W) {
            const I inside = lane < (I{} + (s.na - k));
            const V zero{};
            const V sum = inside ? load<V>(s.sum + t) : zero;
            const V weight = load<V>(s.weight + t);
            const V mean = (inside ? load<V>(s.sum_shift + t) : zero) * weight * T(0.5);
            const V by_cos = (inside ? load<V>(s.sum_angle + t) : zero) * weight * T(NARROW);
            const V cos = load<V>(s.cosine + t) * T(1 / NARROW);
            const V wx = load<V>(s.ux + k), wy = load<V>(s.uy + k), wz = load<V>(s.uz + k);
            by_r += load<V>(s.afc + k) * sum * dfc2 + mean;
            by_c += by_cos * cos;
            gx += by_cos * wx;
            gy += by_cos * wy;
            gz += by_cos * wz;
            const V turn = by_cos * load<V>(s.ainv + k);
            const V stretch =
                (load<V>(s.adfc + k) * sum * fc2 + mean - turn * cos) * load<V>(s.aalong + k);
            store(s.ax + k, load<V>(s.ax + k) + stretch * wx + turn * ux);
            store(s.ay + k, load<V>(s.ay + k) + stretch * wy + turn * uy);
            store(s.az + k, load<V>(s.az + k) + stretch * wz + turn * uz);
        }
        const T stretch = s.aalong[j] * (sum_lanes<T>(by_r) - inv * sum_lanes<T>(by_c));
        s.ax[j] += stretch * ux + inv * sum_lanes<T>(gx);
        s.ay[j] += stretch * uy + inv * sum_lanes<T>(gy);
        s.az[j] += stretch * uz + inv * sum_lanes<T>(gz);
    }
}

// Adds the neighbours' gradients to their atoms, the centre and the cell.
template <class T>
void scatter(Conformer<T>& m, Scratch<T>& s, int i) {
    int next = 0;
    T cx = 0, cy = 0, cz = 0;
    for (int k = 0; k < s.n; k++) {
        const T along = s.gr[k] * s.along[k] * s.inv[k];
        T x = along * s.dx[k], y = along * s.dy[k], z = along * s.dz[k];
        if (next < s.na && s.of[next] == k) {
            x += s.ax[next];
            y += s.ay[next];
            z += s.az[next];
            next++;
        }
        const int j = m.grid ? m.grid->home[s.candidate[k]] : s.candidate[k];
        m.gx[j] += x;
        m.gy[j] += y;
        m.gz[j] += z;
        cx += x;
        cy += y;
        cz += z;
        if (m.with_cell) {
            int shift[3];
            lattice_shift(m, s, i, k, shift);
            for (int a = 0; a < 3; a++) {
                m.cell_gradient[3 * a] += shift[a] * double(x);
                m.cell_gradient[3 * a + 1] += shift[a] * double(y);
                m.cell_gradient[3 * a + 2] += shift[a] * double(z);
            }
        }
    }
    m.gx[i] -= cx;
    m.gy[i] -= cy;
    m.gz[i] -= cz;
}

// ---- all of it -----------------------------------------------------------------------------------

template <class T, int MODE, int KIND>
void angular(const Constants<T>& c, Conformer<T>& m, Scratch<T>& s, const T* in, T* out) {
    if constexpr (MODE == VJP)
        for (int a = 0; a < s.na + Simd<T>::W; a++) s.ax[a] = s.ay[a] = s.az[a] = T(0);
    int present = 0;
    for (int e = 0; e < c.elements; e++)
        if (s.a_segment[e] < s.a_segment[e + 1]) s.present[present++] = e;
    for (int first = 0, last; first < s.na - 1; first = last) {
        int total = 0;
        for (last = first; last < s.na - 1; last++) {
            const int row = s.na - 1 - last;
            if (last > first && total + row > TRIPLES) break;
            s.row_start[last] = total;
            total += row;
        }
        if (pause(m, total)) return;
        describe_triples<T, MODE>(s, first, last);
        factors<T, MODE, KIND>(c, s, total);
        if constexpr (KIND == 0)
            products_any<T, MODE>(c, s, first, last, present, in, out);
        else
            products_4x8<T, MODE, KIND>(c, s, first, last, present, in, out);
        if constexpr (MODE == VJP) gradient_of_triples(s, first, last);
    }
}

template <class T, int MODE, int KIND>
void centres(const Constants<T>& c, Conformer<T>& m, Scratch<T>& s, int from, int to, const T* in,
             T* out) {
    constexpr int LINE = 64 / sizeof(T), MOST_LINES = 64;
    int lines[MOST_LINES], n_lines = 0;
    const auto touch = [&](int column, int columns) {
        for (int at = column; at < column + columns && n_lines < MOST_LINES; at += LINE) lines[n_lines++] = at;
    };
    for (int a = 0; a < c.elements; a++) {
        if (m.first[a] == m.first[a + 1]) continue;
        touch(a * c.radial_terms, c.radial_terms);
        for (int b = a; b < c.elements; b++)
            if (m.first[b] < m.first[b + 1])
                touch(c.elements * c.radial_terms + c.block[a * c.elements + b], c.angular_terms);
    }
    for (int i = from; i < to; i++) {
        const size_t at = static_cast<size_t>(m.row[i]) * c.length;
        if (i + 1 < to) {
            // The next row is elsewhere in memory: on its way while this one is computed.
            const T* next = (MODE == VJP ? in : out) + static_cast<size_t>(m.row[i + 1]) * c.length;
            for (int k = 0; k < n_lines; k++) __builtin_prefetch(next + lines[k], MODE != VJP);
        }
        if (m.grid)
            neighbours_grid(c, m, s, i);
        else
            neighbours_all_pairs(c, m, s, i);
        if (m.crowded_radial) return;
        pick_angular(c, s);
        if (s.na > c.most_angular) {
            m.crowded_angular = true;
            return;
        }
        if (pause(m, s.n)) return;
        describe_radial<T, MODE>(c, m, s, i);
        const T* g = MODE == VJP ? in + at : nullptr;
        T* o = MODE == VJP ? nullptr : out + at;
        if (MODE != VJP && m.clear) std::memset(o, 0, c.length * sizeof(T));
        radial<T, MODE>(c, s, g, o);
        describe_angular<T, MODE>(c, s);
        const int radial_length = c.elements * c.radial_terms;
        angular<T, MODE, KIND>(c, m, s, g ? g + radial_length : g, o ? o + radial_length : o);
        if constexpr (MODE == VJP) scatter(m, s, i);
    }
}

template <class T, int MODE>
void run_kind(const Constants<T>& c, Conformer<T>& m, Scratch<T>& s, int from, int to, const T* in,
              T* out) {
    const bool single = c.n_eta == 1 && c.n_zeta == 1;
    if (single && c.n_shift == 4 && c.n_angle == 8)
        centres<T, MODE, 1>(c, m, s, from, to, in, out);
    else if (single && c.n_shift == 8 && c.n_angle == 4)
        centres<T, MODE, 2>(c, m, s, from, to, in, out);
    else
        centres<T, MODE, 0>(c, m, s, from, to, in, out);
}

template <class T>
void run(int mode, const Constants<T>& c, Conformer<T>& m, Scratch<T>& s, int from, int to, const T* in,
         T* out) {
    if (mode == FORWARD)
        run_kind<T, FORWARD>(c, m, s, from, to, in, out);
    else if (mode == VJP)
        run_kind<T, VJP>(c, m, s, from, to, in, out);
    else
        run_kind<T, JVP>(c, m, s, from, to, in, out);
}

void run_float(int mode, const Constants<float>& c, Conformer<float>& m, Scratch<float>& s, int from,
               int to, const float* in, float* out) {
    run<float>(mode, c, m, s, from, to, in, out);
}

void run_double(int mode, const Constants<double>& c, Conformer<double>& m, Scratch<double>& s, int from,
                int to, const double* in, double* out) {
    run<double>(mode, c, m, s, from, to, in, out);
}
