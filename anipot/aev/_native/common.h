// What the kernels of every instruction set share: constants, a conformer, working memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace anipot {

// Neighbours are read in whole vectors; so many numbers may be read past the last.
constexpr int PAD = 16;

// Triples handled in one go; with their function values they fit the first-level cache.
constexpr int TRIPLES = 128;

enum Mode { FORWARD = 0, VJP = 1, JVP = 2 };

// AEVSettings as the kernels want them, in the precision of the coordinates.
template <class T>
struct Constants {
    int elements, length;
    int radial_terms, radial_padded;   // columns of a radial block, and in whole vectors
    int angular_terms, n_eta, n_zeta;  // columns of an angular block; EtaA, Zeta
    int n_shift, n_angle;              // ShfA, ShfZ
    double radial_cutoff, angular_cutoff;
    int most_radial, most_angular;     // neighbours that an atom may have within the cutoffs
    // One number for each column of a radial block.
    std::vector<T> radial_eta, radial_shift;
    std::vector<T> angular_eta, zeta, angular_shift;
    std::vector<T> half_cos, half_sin;  // 0.5 cos(ShfZ), 0.5 sin(ShfZ)
    std::vector<int> whole_zeta;        // Zeta where it is a small integer, else 0
    std::vector<int> block;             // first column of the block of elements a, b: [a * elements + b]
};

// Atoms and their images within reach of a conformer, sorted into bins at least a radial cutoff wide.
struct Grid {
    int bins[3];
    double low[3], scale[3];
    std::vector<int> start;         // first candidate of each bin
    std::vector<double> x, y, z;    // candidates' positions, with atoms wrapped into the cell
    std::vector<int> home;          // the atom that a candidate is an image of
    std::vector<int> shift;         // lattice vectors added to that atom as given, three each
    std::vector<char> is_home;      // whether it is the atom itself
    std::vector<double> cx, cy, cz; // the atoms, wrapped
    std::vector<int> wrap;          // lattice vectors added to an atom to wrap it, three each
    bool periodic;
};

// One conformer, its atoms sorted by element.
template <class T>
struct Conformer {
    bool clear = false;  // rows of the output hold old numbers
    int n = 0;
    std::vector<int64_t> row;
    std::vector<int> species, first;  // first[s]: first atom of element s
    std::vector<T> x, y, z;
    std::vector<T> tx, ty, tz;  // JVP: tangents of the coordinates
    std::vector<T> gx, gy, gz;  // VJP: gradient
    double cell_tangent[9];
    double cell_gradient[9];
    bool with_cell = false;
    const Grid* grid = nullptr;
    // Set where an atom has more neighbours than it may have: then nothing more is computed.
    bool crowded_radial = false, crowded_angular = false;
    // Asked every PAUSE neighbours and triples: whether to stop. Then the numbers are worth nothing.
    bool (*stopped)(void*) = nullptr;
    void* watch = nullptr;
    int64_t work = 0;
    bool halted = false;
};

// Neighbours and triples between two questions whether to stop: a few milliseconds.
constexpr int64_t PAUSE = 100000;

// Working memory of a thread: grows to the largest need, never shrinks, is never zeroed.
template <class T>
struct Scratch {
    std::vector<T> memory;
    std::vector<int> integers;
    int capacity = -1;

    // Neighbours within the radial cutoff, sorted by element.
    int n;
    T *dx, *dy, *dz, *r2;        // displacement; squared distance
    T *r, *inv, *along;          // distance, its inverse, 0 where coincident atoms have no direction, else 1
    T *fc, *dfc;                 // cutoff function and its derivative
    T *tx, *ty, *tz, *dr;        // JVP: tangents of displacement and distance
    T *gr;                       // VJP: derivative by distance
    int *candidate, *order;
    // Those within the angular cutoff.
    int na;
    T *ux, *uy, *uz, *ar, *ainv, *aalong, *afc, *adfc;
    T *adr, *vx, *vy, *vz;       // JVP: tangents of distance and unit vector
    T *ax, *ay, *az;             // VJP: gradient by displacement
    int *of;                     // place among the neighbours within the radial cutoff
    int *row_start;
    // Triples of a block, by triple.
    T *cosine, *sine, *ratio, *mean, *weight;
    T *d_weight, *d_mean, *d_cos;    // JVP
    T *sum, *sum_shift, *sum_angle;  // VJP
    // Function values, by triple and then shift.
    T *offset, *base, *d_base;
    T *gauss, *d_gauss, *power, *d_power;
    int stride_gauss, stride_power;  // from one EtaA to the next, from one Zeta to the next
    std::vector<int> segment, a_segment, present;

    void reserve(int neighbours, const Constants<T>& c) {
        if (neighbours <= capacity) return;
        capacity = neighbours + neighbours / 2 + 16;
        const size_t m = static_cast<size_t>(capacity) + PAD;
        const size_t t = static_cast<size_t>(TRIPLES) + capacity + PAD;
        const size_t shifts = t * c.n_shift + PAD, angles = t * c.n_angle + PAD;
        stride_gauss = static_cast<int>(shifts);
        stride_power = static_cast<int>(angles);
        T** by_neighbour[] = {&dx, &dy, &dz, &r2, &r,  &inv,  &along, &fc,     &dfc, &tx,   &ty,
                              &tz, &dr, &gr, &ux, &uy, &uz,   &ar,    &ainv,   &aalong, &afc, &adfc,
                              &adr, &vx, &vy, &vz, &ax, &ay, &az};
        T** by_triple[] = {&cosine, &sine, &ratio, &mean, &weight, &d_weight, &d_mean, &d_cos,
                           &sum, &sum_shift, &sum_angle};
        size_t total = (sizeof(by_neighbour) / sizeof(T**)) * m + (sizeof(by_triple) / sizeof(T**)) * t;
        total += shifts * (1 + 2 * c.n_eta) + angles * (2 + 2 * c.n_zeta);
        memory.assign(total, T(0));
        T* p = memory.data();
        for (T** a : by_neighbour) *a = p, p += m;
        for (T** a : by_triple) *a = p, p += t;
        offset = p, p += shifts;
        base = p, p += angles;
        d_base = p, p += angles;
        gauss = p, p += shifts * c.n_eta;
        d_gauss = p, p += shifts * c.n_eta;
        power = p, p += angles * c.n_zeta;
        d_power = p, p += angles * c.n_zeta;
        integers.assign(4 * m, 0);
        candidate = integers.data();
        order = candidate + m;
        of = order + m;
        row_start = of + m;
        segment.assign(c.elements + 1, 0);
        a_segment.assign(c.elements + 1, 0);
        present.assign(c.elements, 0);
    }
};

extern template struct Constants<float>;
extern template struct Constants<double>;
extern template struct Conformer<float>;
extern template struct Conformer<double>;
extern template struct Scratch<float>;
extern template struct Scratch<double>;

}  // namespace anipot
