// Bins of a large or periodic conformer.
#pragma once

#include <cmath>

#include "common.h"

namespace anipot {

enum Status {
    GOOD = 0,
    NOT_FINITE = 1,
    BAD_CELL = 2,
    TOO_FAR = 3,
    TOO_MANY_IMAGES = 4,
    BAD_BATCH = 5,
    NO_MEMORY = 6,
    CROWDED_RADIAL = 7,   // more neighbours within the radial cutoff than an atom may have
    CROWDED_ANGULAR = 8,  // or within the angular cutoff
    INTERRUPTED = 9       // by a signal: the error of its handler is set
};

// Volume over product of edges below which a cell is flat, and the farthest cell an atom may be in:
// as in the reference engine.
constexpr double FLAT_CELL = 1e-6;
constexpr double FARTHEST_CELL = 1e9;

inline void cross(const double* a, const double* b, double* out) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

inline double dot(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

// Replaces what stands in open directions by unit vectors at right angles to the periodic ones, and
// inverts: inverse[3 * b + a] = component b of the reciprocal vector of a. False for a flat cell.
inline bool complete_cell(double* cell, const unsigned char* pbc, double* inverse) {
    double unit[9] = {};
    int periodic = 0;
    for (int a = 0; a < 3; a++) {
        if (!pbc[a]) continue;
        const double edge = std::sqrt(dot(cell + 3 * a, cell + 3 * a));
        if (!(edge > 0) || !std::isfinite(edge)) return false;
        for (int b = 0; b < 3; b++) unit[3 * a + b] = cell[3 * a + b] / edge;
        periodic++;
    }
    bool known[3] = {pbc[0] != 0, pbc[1] != 0, pbc[2] != 0};
    for (int a = 0; a < 3 && periodic; a++) {
        if (known[a]) continue;
        const int b = (a + 1) % 3, d = (a + 2) % 3;
        double axis[3] = {};
        const double *one = unit + 3 * b, *two = unit + 3 * d;
        if (!known[b] || !known[d]) {  // only one vector so far: take the Cartesian axis it is least along
            one = known[b] ? unit + 3 * b : unit + 3 * d;
            int least = 0;
            for (int k = 1; k < 3; k++)
                if (std::fabs(one[k]) < std::fabs(one[least])) least = k;
            axis[least] = 1;
            two = axis;
        }
        double normal[3];
        cross(one, two, normal);
        const double length = std::sqrt(dot(normal, normal));
        if (!(length > FLAT_CELL)) return false;
        for (int k = 0; k < 3; k++) unit[3 * a + k] = cell[3 * a + k] = normal[k] / length;
        known[a] = true;
    }
    if (!periodic)
        for (int k = 0; k < 9; k++) unit[k] = cell[k] = k % 4 == 0;
    double reciprocal[9], volume = 0;
    for (int a = 0; a < 3; a++) cross(cell + 3 * ((a + 1) % 3), cell + 3 * ((a + 2) % 3), reciprocal + 3 * a);
    double normal[3];
    cross(unit, unit + 3, normal);
    if (!(std::fabs(dot(normal, unit + 6)) > FLAT_CELL)) return false;
    volume = dot(reciprocal, cell);
    if (!std::isfinite(volume) || volume == 0) return false;
    for (int a = 0; a < 3; a++)
        for (int b = 0; b < 3; b++) inverse[3 * b + a] = reciprocal[3 * a + b] / volume;
    return true;
}

// Bins the atoms at x, y, z (n) and, in periodic directions, their images within ``cutoff``, of which
// there may be ``most_images``, the atoms included.
template <class T>
Status build_grid(Grid& g, int n, const T* x, const T* y, const T* z, const T* cell_rows,
                  const unsigned char* pbc, double cutoff, double most_images) {
    const unsigned char open[3] = {0, 0, 0};
    double cell[9] = {}, inverse[9];
    g.periodic = cell_rows != nullptr && pbc != nullptr && (pbc[0] || pbc[1] || pbc[2]);
    if (!g.periodic) pbc = open;
    for (int a = 0; a < 3; a++)
        if (pbc[a])
            for (int b = 0; b < 3; b++) cell[3 * a + b] = cell_rows[3 * a + b];
    if (!complete_cell(cell, pbc, inverse)) return BAD_CELL;

    g.cx.resize(n);
    g.cy.resize(n);
    g.cz.resize(n);
    g.wrap.assign(3 * static_cast<size_t>(n), 0);
    std::vector<double> fraction(3 * static_cast<size_t>(n));
    double lowest[3] = {INFINITY, INFINITY, INFINITY}, highest[3] = {-INFINITY, -INFINITY, -INFINITY};
    for (int i = 0; i < n; i++) {
        double at[3] = {double(x[i]), double(y[i]), double(z[i])};
        const double given[3] = {at[0], at[1], at[2]};
        for (int a = 0; a < 3; a++) {
            double f = given[0] * inverse[a] + given[1] * inverse[3 + a] + given[2] * inverse[6 + a];
            if (pbc[a]) {
                const double cells = std::floor(f);
                if (!(std::fabs(cells) <= FARTHEST_CELL)) return TOO_FAR;
                g.wrap[3 * static_cast<size_t>(i) + a] = -static_cast<int>(cells);
                f -= cells;
                for (int b = 0; b < 3; b++) at[b] -= cells * cell[3 * a + b];
            }
            fraction[3 * static_cast<size_t>(i) + a] = f;
            lowest[a] = std::fmin(lowest[a], f);
            highest[a] = std::fmax(highest[a], f);
        }
        g.cx[i] = at[0];
        g.cy[i] = at[1];
        g.cz[i] = at[2];
    }
    // Images: those whose fraction is at most the cutoff beyond the atoms' own range.
    double reach[3], images = n;
    int most[3];
    for (int a = 0; a < 3; a++) {
        const double r = cutoff * std::sqrt(inverse[a] * inverse[a] + inverse[3 + a] * inverse[3 + a] +
                                            inverse[6 + a] * inverse[6 + a]);
        reach[a] = r * (1 + 1e-9) + 1e-9;
        images *= pbc[a] ? 2 * r + 1 : 1;
        if (g.periodic && !(images <= most_images)) return TOO_MANY_IMAGES;
        most[a] = pbc[a] ? static_cast<int>(std::ceil(reach[a])) : 0;
    }
    std::vector<double> px, py, pz;
    std::vector<int> home, shift;
    std::vector<char> is_home;
    for (int s0 = -most[0]; s0 <= most[0]; s0++)
        for (int s1 = -most[1]; s1 <= most[1]; s1++)
            for (int s2 = -most[2]; s2 <= most[2]; s2++) {
                const int s[3] = {s0, s1, s2};
                double move[3] = {};
                for (int a = 0; a < 3; a++)
                    for (int b = 0; b < 3; b++) move[b] += s[a] * cell[3 * a + b];
                for (int i = 0; i < n; i++) {
                    bool near = true;
                    for (int a = 0; a < 3; a++) {
                        const double f = fraction[3 * static_cast<size_t>(i) + a] + s[a];
                        near &= !pbc[a] || (f >= lowest[a] - reach[a] && f <= highest[a] + reach[a]);
                    }
                    if (!near) continue;
                    px.push_back(g.cx[i] + move[0]);
                    py.push_back(g.cy[i] + move[1]);
                    pz.push_back(g.cz[i] + move[2]);
                    home.push_back(i);
                    is_home.push_back(!s0 && !s1 && !s2);
                    for (int a = 0; a < 3; a++) shift.push_back(s[a] + g.wrap[3 * static_cast<size_t>(i) + a]);
                }
            }

    const int count = static_cast<int>(home.size());
    double extent[3];
    const std::vector<double>* position[3] = {&px, &py, &pz};
    for (int a = 0; a < 3; a++) {
        double low = INFINITY, high = -INFINITY;
        for (double p : *position[a]) low = std::fmin(low, p), high = std::fmax(high, p);
        g.low[a] = count ? low : 0;
        extent[a] = count ? high - low : 0;
        const double bins = extent[a] / (cutoff * (1 + 1e-9));
        g.bins[a] = bins < 1 ? 1 : bins > 1e6 ? 1000000 : static_cast<int>(bins);
    }
    // Sparse systems would have more bins than atoms: wider bins are as right.
    while (static_cast<double>(g.bins[0]) * g.bins[1] * g.bins[2] > 2.0 * count + 64) {
        int widest = 0;
        for (int a = 1; a < 3; a++)
            if (g.bins[a] > g.bins[widest]) widest = a;
        g.bins[widest] = (g.bins[widest] + 1) / 2;
    }
    for (int a = 0; a < 3; a++) g.scale[a] = extent[a] > 0 ? g.bins[a] / extent[a] : 0;

    std::vector<int> bin(count);
    g.start.assign(static_cast<size_t>(g.bins[0]) * g.bins[1] * g.bins[2] + 1, 0);
    for (int k = 0; k < count; k++) {
        int place = 0;
        for (int a = 0; a < 3; a++) {
            const int b = static_cast<int>(((*position[a])[k] - g.low[a]) * g.scale[a]);
            place = place * g.bins[a] + (b < 0 ? 0 : b >= g.bins[a] ? g.bins[a] - 1 : b);
        }
        bin[k] = place;
        g.start[place + 1]++;
    }
    for (size_t b = 1; b < g.start.size(); b++) g.start[b] += g.start[b - 1];
    std::vector<int> next(g.start.begin(), g.start.end() - 1);
    g.x.resize(count);
    g.y.resize(count);
    g.z.resize(count);
    g.home.resize(count);
    g.is_home.resize(count);
    g.shift.resize(3 * static_cast<size_t>(count));
    for (int k = 0; k < count; k++) {
        const int to = next[bin[k]]++;
        g.x[to] = px[k];
        g.y[to] = py[k];
        g.z[to] = pz[k];
        g.home[to] = home[k];
        g.is_home[to] = is_home[k];
        for (int a = 0; a < 3; a++) g.shift[3 * static_cast<size_t>(to) + a] = shift[3 * static_cast<size_t>(k) + a];
    }
    return GOOD;
}

}  // namespace anipot
