// Runs the native AEV engine on odd and ordinary conformers, under sanitizers: built and run by
// test_native_sanitizers.py. Leaves with 1 where a number is wrong; a sanitizer ends it otherwise.

#include "engine.cpp"

#include <cstdio>
#include <random>

namespace {

struct Atoms {
    std::vector<int64_t> offsets, rows, species;
    std::vector<double> x, cells;
    std::vector<unsigned char> pbc;
};

// Atoms at random in cubes, sorted by element, as anipot.batches.Batch has them.
Atoms make(std::mt19937& random, const std::vector<int>& sizes, int elements, bool periodic, double density) {
    std::uniform_real_distribution<double> uniform(0, 1);
    Atoms a;
    a.offsets = {0};
    std::vector<int> element;
    std::vector<double> given;
    for (int n : sizes) {
        const double side = std::cbrt(n / density + 1);
        for (int k = 0; k < n; k++) {
            element.push_back(static_cast<int>(random() % elements));
            for (int b = 0; b < 3; b++) given.push_back((periodic ? 5 : 1) * side * (uniform(random) - 0.3));
        }
        a.offsets.push_back(a.offsets.back() + n);
        for (int b = 0; b < 9; b++) a.cells.push_back((b % 4 == 0) * (side + 0.5) + 0.3 * uniform(random));
        for (int b = 0; b < 3; b++) a.pbc.push_back(uniform(random) < 0.7);
    }
    // Odd ones: coincident and collinear atoms.
    for (size_t m = 0; m + 1 < a.offsets.size(); m++) {
        const int64_t f = 3 * a.offsets[m];
        if (sizes[m] < 4) continue;
        for (int b = 0; b < 3; b++) {
            given[f + b] = given[f + 3 + b];
            given[f + 9 + b] = 2 * given[f + 6 + b] - given[f + b];
        }
    }
    const int64_t total = a.offsets.back();
    std::vector<int64_t> order(total);
    for (int64_t k = 0; k < total; k++) order[k] = k;
    std::stable_sort(order.begin(), order.end(), [&](int64_t p, int64_t q) { return element[p] < element[q]; });
    a.rows.resize(total);
    for (int64_t r = 0; r < total; r++) {
        a.rows[order[r]] = r;
        a.species.push_back(element[order[r]]);
        for (int b = 0; b < 3; b++) a.x.push_back(given[3 * order[r] + b]);
    }
    return a;
}

// The three functions, on exactly as much memory as they may touch; VJP and JVP must be adjoint.
template <class T>
int check(std::mt19937& random, const AnipotSettings& s, const Atoms& a, bool periodic, double tolerance) {
    std::normal_distribution<double> normal;
    const size_t n = a.species.size(), m = a.offsets.size() - 1;
    const size_t length = anipot::constants_of<T>(s).length;
    auto fill = [&](size_t count) {
        std::vector<T> v(count);
        for (T& value : v) value = static_cast<T>(normal(random));
        return v;
    };
    const std::vector<T> x(a.x.begin(), a.x.end()), cells(a.cells.begin(), a.cells.end());
    const std::vector<T> g = fill(n * length), v = fill(3 * n), w = fill(9 * m);
    std::vector<T> aev(n * length), along(n * length), gx(3 * n), gc(9 * m);
    AnipotCall call = {};
    call.bytes = sizeof(T);
    call.threads = 3;
    call.conformers = static_cast<int64_t>(m);
    call.atoms = static_cast<int64_t>(n);
    call.offsets = a.offsets.data();
    call.rows = a.rows.data();
    call.species = a.species.data();
    call.coordinates = x.data();
    call.cells = periodic ? cells.data() : nullptr;
    call.pbc = periodic ? a.pbc.data() : nullptr;
    call.aev = aev.data();
    int64_t bad;
    int status = anipot_aev(&s, &call, &bad, nullptr);
    call.mode = anipot::JVP;
    call.aev = along.data();
    call.coordinate_tangent = v.data();
    call.cell_tangent = periodic ? w.data() : nullptr;
    status |= anipot_aev(&s, &call, &bad, nullptr);
    call.mode = anipot::VJP;
    call.aev = nullptr;
    call.aev_gradient = g.data();
    call.coordinate_gradient = gx.data();
    call.cell_gradient = periodic ? gc.data() : nullptr;
    status |= anipot_aev(&s, &call, &bad, nullptr);
    if (status) return std::printf("status %d, conformer %d\n", status, int(bad)), 1;
    double left = 0, right = 0, scale = 1;
    for (size_t k = 0; k < n * length; k++) right += double(g[k]) * along[k], scale += std::fabs(double(g[k]) * along[k]);
    for (size_t k = 0; k < 3 * n; k++) left += double(gx[k]) * v[k];
    for (size_t k = 0; periodic && k < 9 * m; k++) left += double(gc[k]) * w[k];
    if (!(std::fabs(left - right) <= tolerance * scale)) return std::printf("%g is not %g\n", left, right), 1;

    // What cannot be computed is told, not read.
    std::vector<T> spoiled = x;
    if (n) {
        spoiled[3 * n - 1] = static_cast<T>(NAN);
        call.coordinates = spoiled.data();
        if (anipot_aev(&s, &call, &bad, nullptr) != anipot::NOT_FINITE || bad < 0) return std::printf("NaN passed\n"), 1;
        call.coordinates = x.data();
        std::vector<int64_t> rows = a.rows;
        rows[0] = static_cast<int64_t>(n);
        call.rows = rows.data();
        if (anipot_aev(&s, &call, &bad, nullptr) != anipot::BAD_BATCH) return std::printf("bad row passed\n"), 1;
        if (n > 1) {
            rows[0] = rows[1];
            if (anipot_aev(&s, &call, &bad, nullptr) != anipot::BAD_BATCH) return std::printf("a row twice passed\n"), 1;
        }
        call.rows = a.rows.data();
        const std::vector<std::vector<int64_t>> wrong = {
            {0, 1000, int64_t(n)}, {0, 90000000, int64_t(n)}, {0, -5, int64_t(n)}, {1, int64_t(n), int64_t(n)}, {0, 0, 0}};
        for (const std::vector<int64_t>& offsets : wrong) {
            call.offsets = offsets.data();
            call.conformers = 2;
            if (anipot_aev(&s, &call, &bad, nullptr) != anipot::BAD_BATCH) return std::printf("bad offsets passed\n"), 1;
        }
    }
    return 0;
}

}  // namespace

int main() {
    std::mt19937 random(0);
    const double eta[] = {16, 4}, shift[] = {0.9, 1.2, 1.5, 1.8, 2.1, 2.4, 2.7, 3.0, 3.3, 3.6, 3.9, 4.2, 4.5, 4.8, 5, 5.1};
    const double zeta[] = {32, 14.1, 7}, angle[] = {0.2, 0.6, 1.0, 1.4, 1.8, 2.2, 2.6, 2.9};
    const AnipotSettings settings[] = {
        {4, 1, 16, 1, 1, 4, 8, 5.2, 3.5, 4711, 1436, 5000000, eta, shift, eta, zeta, shift, angle},
        {7, 1, 16, 1, 1, 8, 4, 5.1, 3.5, 4711, 1436, 5000000, eta, shift, eta, zeta + 1, shift, angle},
        {3, 2, 5, 2, 3, 3, 5, 4.0, 4.0, 2144, 2144, 5000000, eta, shift, eta, zeta, shift, angle},
        {1, 1, 1, 1, 1, 1, 1, 1.0, 0.5, 1000, 1000, 5000000, eta, shift, eta, zeta + 2, shift, angle},
    };
    const std::vector<std::vector<int>> sizes = {{}, {0}, {1}, {1, 0, 2, 17, 5, 9, 4}, {60, 3}, {200}};
    int wrong = 0;
    for (const anipot::Variant* variant : anipot::available()) {
        anipot_use_variant(variant->name);
        for (const AnipotSettings& s : settings)
            for (const std::vector<int>& n : sizes)
                for (bool periodic : {false, true}) {
                    const Atoms a = make(random, n, s.elements, periodic, 0.1);
                    wrong += check<float>(random, s, a, periodic, 1e-5);
                    wrong += check<double>(random, s, a, periodic, 1e-12);
                }
        std::printf("%s: %d wrong\n", variant->name, wrong);
    }
    return wrong != 0;
}
