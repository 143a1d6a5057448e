// The C interface of the networks, their threads, and the choice of an instruction set.
//
// A molecule of a dozen atoms gives each network a handful of rows. General matrix products then
// spend their time on calls and on reading weights twice; here one call does all elements and members.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <thread>
#include <vector>

#include "../../aev/_native/variants.h"

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
constexpr int BLOCK = 48;        // rows of a block, whose values stay in the cache beside the weights
// A thread is worth starting for so many multiplications, a tenth of a millisecond's.
constexpr double WORK_PER_THREAD = 4e6;

inline int padded(int width) { return (width + PAD - 1) / PAD * PAD; }

#define ANIPOT_KERNELS "../../networks/_native/networks.inl"
#include "../../aev/_native/variants.inl"

namespace {

struct Variant {
    void (*single)(const AnipotNetworks&, float*);
    void (*twofold)(const AnipotNetworks&, double*);
};

Variant best() {
#ifdef ANIPOT_VARIANTS
    if (has_avx512()) return {avx512::element_float, avx512::element_double};
    if (has_avx2()) return {avx2::element_float, avx2::element_double};
#endif
    return {base::element_float, base::element_double};
}

Variant variant(int which) {  // for tests: 0 the best, 1 the baseline, 2 AVX2
#ifdef ANIPOT_VARIANTS
    if (which == 2 && has_avx2()) return {avx2::element_float, avx2::element_double};
#endif
    if (which == 1) return {base::element_float, base::element_double};
    static const Variant chosen = best();
    return chosen;
}

// Working memory of an element, in numbers: values and slopes of all layers, one gradient.
int64_t memory_of(const AnipotNetworks& net) {
    int64_t need = 0, widest = 0;
    for (int l = 1; l <= net.hidden; l++) {
        need += 2 * padded(net.widths[l]);
        widest = std::max<int64_t>(widest, padded(net.widths[l]));
    }
    return net.rows * (need + widest);
}

// Multiplications of an element, forward and backward.
double work_of(const AnipotNetworks& net) {
    double products = net.widths[net.hidden];
    for (int l = 1; l <= net.hidden; l++) products += double(net.widths[l]) * net.widths[l - 1];
    return products * net.rows * net.members * (net.gradient ? 2 : 1);
}

// Blocks of rows do not touch one another: the same bits whatever the number of threads.
template <class T, class Function>
bool run(const AnipotNetworks* nets, int32_t count, int32_t threads, Function function) {
    std::vector<AnipotNetworks> blocks;
    int64_t most = 0;
    double total = 0;
    for (int32_t e = 0; e < count; e++) {
        const int parts = (nets[e].rows + BLOCK - 1) / BLOCK;
        for (int p = 0; p < parts; p++) {
            const int64_t from = static_cast<int64_t>(nets[e].rows) * p / parts;
            const int64_t to = static_cast<int64_t>(nets[e].rows) * (p + 1) / parts;
            const int64_t skip = from * nets[e].widths[0];
            AnipotNetworks block = nets[e];
            block.rows = static_cast<int32_t>(to - from);
            block.x = static_cast<const T*>(block.x) + skip;
            if (block.gradient) block.gradient = static_cast<T*>(block.gradient) + skip;
            block.out = static_cast<T*>(block.out) + from;
            most = std::max(most, memory_of(block));
            total += work_of(block);
            blocks.push_back(block);
        }
    }
    threads = static_cast<int32_t>(std::min<double>(threads, 1 + total / WORK_PER_THREAD));
    threads = std::max(1, std::min<int32_t>(threads, static_cast<int32_t>(blocks.size())));
    std::vector<size_t> bounds = {0};
    double sum = 0;
    for (size_t k = 0; k < blocks.size() && static_cast<int32_t>(bounds.size()) < threads; k++) {
        sum += work_of(blocks[k]);
        if (sum >= total * static_cast<double>(bounds.size()) / threads) bounds.push_back(k + 1);
    }
    while (static_cast<int32_t>(bounds.size()) <= threads) bounds.push_back(blocks.size());
    std::atomic<bool> good{true};
    const auto part = [&](int32_t t) {
        try {
            std::vector<T> memory(most + PAD);
            for (size_t k = bounds[t]; k < bounds[t + 1]; k++) function(blocks[k], memory.data());
        } catch (...) {  // std::bad_alloc, or std::length_error: nothing else is thrown
            good = false;
        }
    };
    std::vector<std::thread> workers;
    workers.reserve(threads);  // nothing may throw between a start and its join
    int32_t started = 1;
    try {
        for (; started < threads; started++) workers.emplace_back(part, started);
    } catch (...) {
        // No more threads, or no memory for one: this one does the rest.
    }
    part(0);
    for (int32_t t = started; t < threads; t++) part(t);
    for (std::thread& w : workers) w.join();
    return good;
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
EXPORT int anipot_networks(const AnipotNetworks* nets, int32_t count, int32_t bytes, int32_t threads,
                           int32_t which) {
    using namespace anipot::networks;
    for (int32_t e = 0; e < count; e++)
        if (nets[e].hidden > MOST_LAYERS) return 1;
    try {
        const Variant v = variant(which);
        const bool good = bytes == 4 ? run<float>(nets, count, threads, v.single)
                                     : run<double>(nets, count, threads, v.twofold);
        if (!good) return 2;
    } catch (...) {  // nothing may pass into the caller, which is no C++
        return 2;
    }
    return 0;
}

#if defined(_WIN32)
// Python's build tools ask linkers of Windows to export it. Nothing imports the library.
EXPORT void* PyInit__networks() { return nullptr; }
#endif
