// The C interface of the networks of small systems, and the choice of an instruction set.
//
// A molecule of a dozen atoms gives each network a handful of rows. General matrix products then
// spend their time on calls and on reading weights twice; here one call does all elements and members.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#define INLINE inline __attribute__((always_inline))

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

extern "C" {

// One element of a system: ``rows`` atoms, ``members`` networks of equal shape. Weights of member k
// and layer l at [k * (hidden + 1) + l]: (in, padded out), for the last layer (in,).
struct AnipotNetworks {
    int32_t rows, members, hidden, activation, output_activation;
    const int32_t* widths;  // (hidden + 1): length of the AEV, then the hidden widths
    const void* const* weights;
    const void* const* biases;
    const double* seeds;  // (members)
    const void* x;        // (rows, length)
    void* gradient;       // (rows, length): of the seeded sum over members; null if not wanted
    void* out;            // (members, out_stride): the first ``rows`` of each
    int64_t out_stride;
};
}

namespace anipot {
namespace networks {

enum Activation { LINEAR = 0, RELU = 1, CELU = 2, GELU = 3, SILU = 4, TANH = 5, SIGMOID = 6, GAUSSIAN = 7 };

constexpr int PAD = 16;          // widths are padded to multiples of it
constexpr int ROWS = 6;          // rows handled together, and
constexpr int MOST_COLUMNS = 4;  // vectors of columns: 24 sums stay in 32 registers
constexpr int MOST_LAYERS = 32;

inline int padded(int width) { return (width + PAD - 1) / PAD * PAD; }

namespace base {
#define ANIPOT_BYTES 16
#include "../aev/_native/simd.inl"
#include "networks.inl"
#undef ANIPOT_BYTES
}  // namespace base

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
namespace avx2 {
#define ANIPOT_BYTES 32
#include "../aev/_native/simd.inl"
#include "networks.inl"
#undef ANIPOT_BYTES
}  // namespace avx2
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma,bmi,bmi2,prefer-vector-width=512")
#endif
namespace avx512 {
#define ANIPOT_BYTES 64
#include "../aev/_native/simd.inl"
#include "networks.inl"
#undef ANIPOT_BYTES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // x86-64

namespace {

struct Variant {
    void (*single)(const AnipotNetworks&, float*);
    void (*twofold)(const AnipotNetworks&, double*);
};

Variant best() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw"))
            return {avx512::element_float, avx512::element_double};
        return {avx2::element_float, avx2::element_double};
    }
#endif
    return {base::element_float, base::element_double};
}

Variant variant(int which) {  // for tests: 0 the best, 1 the baseline, 2 AVX2
#if defined(__x86_64__)
    if (which == 2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return {avx2::element_float, avx2::element_double};
#endif
    if (which == 1) return {base::element_float, base::element_double};
    static const Variant chosen = best();
    return chosen;
}

template <class T, class Function>
void run(const AnipotNetworks* nets, int32_t count, Function function) {
    int64_t most = 0;
    for (int32_t e = 0; e < count; e++) {
        int64_t need = 0, widest = 0;
        for (int l = 1; l <= nets[e].hidden; l++) {
            need += 2 * padded(nets[e].widths[l]);
            widest = std::max<int64_t>(widest, padded(nets[e].widths[l]));
        }
        most = std::max<int64_t>(most, nets[e].rows * (need + widest));
    }
    std::vector<T> memory(most + PAD);
    for (int32_t e = 0; e < count; e++) function(nets[e], memory.data());
}

}  // namespace
}  // namespace networks
}  // namespace anipot

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Raised with every change of the interface.
EXPORT int anipot_networks_interface() { return 1; }

// 0; 1: too many layers; 2: no memory. All elements have the same precision.
EXPORT int anipot_networks(const AnipotNetworks* nets, int32_t count, int32_t bytes, int32_t which) {
    using namespace anipot::networks;
    for (int32_t e = 0; e < count; e++)
        if (nets[e].hidden > MOST_LAYERS) return 1;
    try {
        const Variant v = variant(which);
        if (bytes == 4)
            run<float>(nets, count, v.single);
        else
            run<double>(nets, count, v.twofold);
    } catch (const std::bad_alloc&) {
        return 2;
    }
    return 0;
}
