// The C interface of the native AEV engine, the threads, and the choice of an instruction set.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <deque>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <vector>

#include "common.h"
#include "grid.h"
#include "variants.h"

#define INLINE_LAMBDA __attribute__((always_inline))

// ---- kernels, once for each instruction set ------------------------------------------------------

namespace anipot {

// Made here, for the baseline: none of their functions may be compiled for a larger instruction set.
template struct Constants<float>;
template struct Constants<double>;
template struct Conformer<float>;
template struct Conformer<double>;
template struct Scratch<float>;
template struct Scratch<double>;

#define ANIPOT_KERNELS "kernels.inl"
#include "variants.inl"

namespace {

template <class T>
using Kernel = void (*)(int, const Constants<T>&, Conformer<T>&, Scratch<T>&, int, int, const T*, T*);

struct Variant {
    const char* name;
    Kernel<float> single;
    Kernel<double> twofold;
};

const Variant BASE = {"base", base::run_float, base::run_double};
#ifdef ANIPOT_VARIANTS
const Variant AVX2 = {"avx2", avx2::run_float, avx2::run_double};
const Variant AVX512 = {"avx512", avx512::run_float, avx512::run_double};
#endif

// Instruction sets that this machine has, best last.
std::vector<const Variant*> available() {
    std::vector<const Variant*> found = {&BASE};
#ifdef ANIPOT_VARIANTS
    if (has_avx2()) found.push_back(&AVX2);
    if (has_avx512()) found.push_back(&AVX512);
#endif
    return found;
}

std::atomic<const Variant*> chosen{nullptr};

const Variant& variant() {
    const Variant* v = chosen.load();
    if (!v) {
        v = available().back();
        chosen.store(v);
    }
    return *v;
}

template <class T>
Kernel<T> kernel() {
    if constexpr (sizeof(T) == 4)
        return variant().single;
    else
        return variant().twofold;
}

// ---- work ----------------------------------------------------------------------------------------

// Beyond so many atoms, bins find neighbours faster than all pairs do.
constexpr int ALL_PAIRS = 160;
// Conformers of more atoms than this are cut into parts that several threads may take. Parts depend
// on the conformer alone, so that sums over them have the same bits whatever the number of threads.
constexpr int PART = 48, MOST_PARTS = 32;
constexpr int64_t MOST_ATOMS = 100000000;  // of a conformer
// Farther out, no distance is known to 0.1 angstrom in either precision, and in single precision
// squares of squares overflow: as good as infinity.
constexpr double FARTHEST = 1e15;

// While it lives, this thread's numbers too small for normal floats are 0. Gaussians and powers reach
// them all the time, x86 then takes a hundred cycles for one product, and nobody needs 1e-40.
class FlushTiny {
   public:
#if defined(__x86_64__)
    FlushTiny() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ | 0x8040); }
    ~FlushTiny() { __builtin_ia32_ldmxcsr(before_); }

   private:
    unsigned before_;
#elif defined(__aarch64__)
    FlushTiny() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ | (uint64_t(1) << 24)));
    }
    ~FlushTiny() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

   private:
    uint64_t before_;
#else
    FlushTiny() {}
    ~FlushTiny() {}
#endif
   public:
    FlushTiny(const FlushTiny&) = delete;
    FlushTiny& operator=(const FlushTiny&) = delete;
};

// While it lives, tiny numbers are as usual: for code that is not ours.
class KeepTiny {
   public:
#if defined(__x86_64__)
    KeepTiny() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(before_ & ~0x8040u); }
    ~KeepTiny() { __builtin_ia32_ldmxcsr(before_); }

   private:
    unsigned before_;
#elif defined(__aarch64__)
    KeepTiny() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" : : "r"(before_ & ~(uint64_t(1) << 24)));
    }
    ~KeepTiny() { asm volatile("msr fpcr, %0" : : "r"(before_)); }

   private:
    uint64_t before_;
#else
    KeepTiny() {}
    ~KeepTiny() {}
#endif
   public:
    KeepTiny(const KeepTiny&) = delete;
    KeepTiny& operator=(const KeepTiny&) = delete;
};

int parts_of(int64_t n) {
    return n <= PART ? 1 : static_cast<int>(std::min<int64_t>(MOST_PARTS, (n + PART - 1) / PART));
}

}  // namespace
}  // namespace anipot

extern "C" {

struct AnipotSettings {
    int32_t elements, n_radial_eta, n_radial_shift, n_angular_eta, n_zeta, n_angular_shift, n_angle;
    double radial_cutoff, angular_cutoff;
    int32_t most_radial, most_angular;  // neighbours that an atom may have within the cutoffs
    int64_t most_images;                // images that a periodic conformer may have, atoms included
    const double *radial_eta, *radial_shift, *angular_eta, *zeta, *angular_shift, *angle;
};

// Arrays of anipot.batches.Batch, and what a mode needs; null where there is none.
struct AnipotCall {
    int32_t mode, bytes, threads;
    int32_t clear;                                  // forward, JVP: whether aev holds old numbers
    int64_t conformers, atoms;
    const int64_t *offsets, *rows, *species;
    const void *coordinates, *cells;
    const unsigned char* pbc;
    const void *aev_gradient;                       // VJP: (N, L)
    const void *coordinate_tangent, *cell_tangent;  // JVP: (N, 3), (B, 3, 3)
    void* aev;                                      // forward, JVP: (N, L), zeros, or else clear
    void *coordinate_gradient, *cell_gradient;      // VJP: (N, 3), (B, 3, 3)
};

// Python's own functions, for a caller that is its main thread and holds its lock.
struct AnipotPython {
    void* (*release)();        // PyEval_SaveThread
    void (*acquire)(void*);    // PyEval_RestoreThread
    int (*check_signals)();    // PyErr_CheckSignals
};
}

namespace anipot {
namespace {

template <class T>
Constants<T> constants_of(const AnipotSettings& s) {
    Constants<T> c;
    c.elements = s.elements;
    c.radial_terms = s.n_radial_eta * s.n_radial_shift;
    c.radial_padded = (c.radial_terms + PAD - 1) / PAD * PAD;
    c.n_eta = s.n_angular_eta;
    c.n_zeta = s.n_zeta;
    c.n_shift = s.n_angular_shift;
    c.n_angle = s.n_angle;
    c.angular_terms = c.n_eta * c.n_zeta * c.n_shift * c.n_angle;
    c.length = c.elements * c.radial_terms + c.elements * (c.elements + 1) / 2 * c.angular_terms;
    c.radial_cutoff = s.radial_cutoff;
    c.angular_cutoff = s.angular_cutoff;
    c.most_radial = s.most_radial;
    c.most_angular = s.most_angular;
    for (int e = 0; e < s.n_radial_eta; e++)
        for (int k = 0; k < s.n_radial_shift; k++) {
            c.radial_eta.push_back(T(s.radial_eta[e]));
            c.radial_shift.push_back(T(s.radial_shift[k]));
        }
    c.radial_eta.resize(c.radial_padded, T(1));
    c.radial_shift.resize(c.radial_padded, T(0));
    for (int k = 0; k < c.n_eta; k++) c.angular_eta.push_back(T(s.angular_eta[k]));
    for (int k = 0; k < c.n_zeta; k++) {
        const double zeta = s.zeta[k];
        c.zeta.push_back(T(zeta));
        c.whole_zeta.push_back(zeta >= 1 && zeta <= 64 && zeta == std::floor(zeta) ? int(zeta) : 0);
    }
    for (int k = 0; k < c.n_shift; k++) c.angular_shift.push_back(T(s.angular_shift[k]));
    for (int k = 0; k < c.n_angle; k++) {
        c.half_cos.push_back(T(0.5 * std::cos(s.angle[k])));
        c.half_sin.push_back(T(0.5 * std::sin(s.angle[k])));
    }
    c.block.assign(static_cast<size_t>(c.elements) * c.elements, 0);
    int block = 0;
    for (int a = 0; a < c.elements; a++)
        for (int b = a; b < c.elements; b++, block++)
            c.block[a * c.elements + b] = c.block[b * c.elements + a] = block * c.angular_terms;
    return c;
}

// Lets the signals of Python be handled during a call that takes long, as Ctrl-C is, and stops all
// threads of the call where a handler raises. While it lives, Python's lock is open.
class Watch {
   public:
    explicit Watch(const AnipotPython* python) : python_(python), state_(python ? python->release() : nullptr) {}
    ~Watch() {
        if (python_) python_->acquire(state_);
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;

    static constexpr std::chrono::milliseconds EVERY{50};

    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

    // Of the calling thread only.
    bool poll() {
        if (!python_ || stopped()) return stopped();
        const auto now = std::chrono::steady_clock::now();
        if (now - last_ < EVERY) return false;
        const KeepTiny keep;
        python_->acquire(state_);
        if (python_->check_signals()) stopped_.store(true, std::memory_order_relaxed);
        state_ = python_->release();
        last_ = std::chrono::steady_clock::now();
        return stopped();
    }

    static bool ask_caller(void* watch) { return static_cast<Watch*>(watch)->poll(); }
    static bool ask(void* watch) { return static_cast<Watch*>(watch)->stopped(); }

   private:
    const AnipotPython* python_;
    void* state_;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
    std::atomic<bool> stopped_{false};
};

// Some consecutive centres of a conformer.
struct Item {
    int64_t conformer;
    int part, parts;
    int64_t grid;    // place among the grids made beforehand, or -1
    int64_t buffer;  // place of the part's gradient among the buffers, or -1
    double cost;
};

template <class T>
class Job {
   public:
    Job(const AnipotSettings& s, const AnipotCall& call, Watch& watch)
        : c_(constants_of<T>(s)), most_images_(static_cast<double>(s.most_images)), call_(call), watch_(watch) {}

    Status run(int64_t* bad) {
        Status status = plan(bad);
        if (status != GOOD) return status;
        const int threads = threads_for();
        std::vector<Failure> failures(threads);
        std::vector<size_t> bounds = partition(threads);
        std::vector<std::thread> workers;
        workers.reserve(threads);  // nothing may throw between a start and its join
        std::mutex mutex;
        std::condition_variable ended;
        int started = 1, running = 0;
        try {
            for (; started < threads; started++) {
                workers.emplace_back([&, started] {
                    work(bounds[started], bounds[started + 1], failures[started], false);
                    const std::lock_guard<std::mutex> lock(mutex);
                    running--;
                    ended.notify_one();
                });
                const std::lock_guard<std::mutex> lock(mutex);
                running++;
            }
        } catch (...) {
            // No more threads, or no memory for one: this one does the rest.
        }
        work(bounds[0], bounds[1], failures[0], true);
        for (int t = started; t < threads; t++) work(bounds[t], bounds[t + 1], failures[t], true);
        {
            std::unique_lock<std::mutex> lock(mutex);
            while (running > 0) {
                ended.wait_for(lock, Watch::EVERY);
                lock.unlock();
                watch_.poll();
                lock.lock();
            }
        }
        for (std::thread& w : workers) w.join();
        if (watch_.stopped()) return INTERRUPTED;
        for (const Failure& f : failures)  // in the order of conformers
            if (f.status != GOOD) {
                *bad = f.conformer;
                return f.status;
            }
        if (call_.mode == VJP) collect();
        return GOOD;
    }

   private:
    struct Failure {
        Status status = GOOD;
        int64_t conformer = -1;
    };

    bool periodic(int64_t b) const {
        return call_.cells && call_.pbc &&
               (call_.pbc[3 * b] || call_.pbc[3 * b + 1] || call_.pbc[3 * b + 2]);
    }

    bool with_cell(int64_t b) const {
        return periodic(b) && (call_.mode == VJP ? call_.cell_gradient != nullptr : call_.cell_tangent != nullptr);
    }

    // Checks the indices, cuts the work into items, and makes the grids that several items share.
    Status plan(int64_t* bad) {
        if (call_.conformers < 0 || call_.atoms < 0) return BAD_BATCH;
        std::vector<char> seen(call_.atoms, 0);  // a row that no conformer has would never be written
        for (int64_t a = 0; a < call_.atoms; a++) {
            const int64_t r = call_.rows[a];
            if (call_.species[a] < 0 || call_.species[a] >= c_.elements || r < 0 || r >= call_.atoms || seen[r])
                return BAD_BATCH;
            seen[r] = 1;
        }
        if (call_.offsets[0] != 0 || call_.offsets[call_.conformers] != call_.atoms) return BAD_BATCH;
        for (int64_t b = 0; b < call_.conformers; b++)  // all of them, before the first conformer is read
            if (call_.offsets[b + 1] < call_.offsets[b] || call_.offsets[b + 1] > call_.atoms ||
                call_.offsets[b + 1] - call_.offsets[b] > MOST_ATOMS) {
                *bad = b;
                return BAD_BATCH;
            }
        int64_t buffered = 0;
        Conformer<T> m;
        items_.reserve(call_.conformers);
        for (int64_t b = 0; b < call_.conformers; b++) {
            const int64_t n = call_.offsets[b + 1] - call_.offsets[b];
            const int parts = parts_of(n);
            int64_t grid = -1;
            if (parts > 1 && (n > ALL_PAIRS || periodic(b))) {
                grid = static_cast<int64_t>(grids_.size());
                grids_.emplace_back();
                Status status = fill(m, b);
                if (status == GOOD) status = build(grids_.back(), m, b);
                if (status == GOOD && watch_.poll()) status = INTERRUPTED;
                if (status != GOOD) {
                    *bad = b;
                    return status;
                }
            }
            const double near = static_cast<double>(std::min<int64_t>(n, 45));
            for (int p = 0; p < parts; p++) {
                items_.push_back({b, p, parts, grid, call_.mode == VJP && parts > 1 ? buffered : -1,
                                  static_cast<double>(n) / parts * (0.1 + 0.0015 * near * near)});
                if (call_.mode == VJP && parts > 1) buffered += 3 * n + 9;
            }
        }
        buffer_.resize(buffered);
        return GOOD;
    }

    // Threads worth starting: one for each 100 microseconds or so of work.
    int threads_for() const {
        double cost = 0;
        for (const Item& item : items_) cost += item.cost;
        const int64_t most = std::min<int64_t>(items_.size(), static_cast<int64_t>(cost / 100) + 1);
        return static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(call_.threads, most)));
    }

    std::vector<size_t> partition(int threads) const {
        double total = 0, sum = 0;
        for (const Item& item : items_) total += item.cost;
        std::vector<size_t> bounds = {0};
        for (size_t k = 0; k < items_.size() && static_cast<int>(bounds.size()) < threads; k++) {
            sum += items_[k].cost;
            if (sum >= total * static_cast<double>(bounds.size()) / threads) bounds.push_back(k + 1);
        }
        while (static_cast<int>(bounds.size()) <= threads) bounds.push_back(items_.size());
        return bounds;
    }

    // Reads a conformer, sorted by element; rows of a batch are in that order already.
    Status fill(Conformer<T>& m, int64_t b) const {
        const int64_t from = call_.offsets[b];
        const int n = m.n = static_cast<int>(call_.offsets[b + 1] - from);
        const int64_t* rows = call_.rows + from;
        m.first.assign(c_.elements + 1, 0);
        for (int k = 0; k < n; k++) m.first[call_.species[rows[k]] + 1]++;
        for (int e = 0; e < c_.elements; e++) m.first[e + 1] += m.first[e];
        m.row.resize(n);
        m.species.resize(n);
        for (std::vector<T>* v : {&m.x, &m.y, &m.z}) v->assign(n + PAD, T(0));
        const T* x = static_cast<const T*>(call_.coordinates);
        bool finite = true;
        for (int k = 0; k < n; k++) {
            const int64_t r = rows[k];
            const int e = static_cast<int>(call_.species[r]), to = m.first[e]++;
            m.row[to] = r;
            m.species[to] = e;
            m.x[to] = x[3 * r];
            m.y[to] = x[3 * r + 1];
            m.z[to] = x[3 * r + 2];
            for (int64_t a = 3 * r; a < 3 * r + 3; a++) finite &= std::fabs(x[a]) <= T(FARTHEST);  // not NaN either
        }
        for (int e = c_.elements; e > 0; e--) m.first[e] = m.first[e - 1];
        m.first[0] = 0;
        m.grid = nullptr;
        m.with_cell = with_cell(b);
        if (call_.mode == VJP) {
            for (std::vector<T>* v : {&m.gx, &m.gy, &m.gz}) v->assign(n, T(0));
            std::fill(m.cell_gradient, m.cell_gradient + 9, 0.0);
        } else if (call_.mode == JVP) {
            const T* t = static_cast<const T*>(call_.coordinate_tangent);
            for (std::vector<T>* v : {&m.tx, &m.ty, &m.tz}) v->assign(n, T(0));
            for (int k = 0; t && k < n; k++) {
                m.tx[k] = t[3 * m.row[k]];
                m.ty[k] = t[3 * m.row[k] + 1];
                m.tz[k] = t[3 * m.row[k] + 2];
            }
            if (m.with_cell)
                for (int k = 0; k < 9; k++) m.cell_tangent[k] = static_cast<const T*>(call_.cell_tangent)[9 * b + k];
        }
        return finite ? GOOD : NOT_FINITE;
    }

    Status build(Grid& grid, const Conformer<T>& m, int64_t b) const {
        const bool cell = periodic(b);
        return build_grid(grid, m.n, m.x.data(), m.y.data(), m.z.data(),
                          cell ? static_cast<const T*>(call_.cells) + 9 * b : nullptr,
                          cell ? call_.pbc + 3 * b : nullptr, c_.radial_cutoff, most_images_);
    }

    void work(size_t from, size_t to, Failure& failure, bool caller) {
        try {
            const FlushTiny flush;
            Conformer<T> m;
            m.clear = call_.clear != 0;
            m.stopped = caller ? Watch::ask_caller : Watch::ask;
            m.watch = &watch_;
            Scratch<T> scratch;
            Grid own;
            const Kernel<T> centres = kernel<T>();
            for (size_t k = from; k < to; k++) {
                const Item& item = items_[k];
                failure.conformer = item.conformer;
                failure.status = fill(m, item.conformer);
                if (failure.status != GOOD) return;
                if (item.grid >= 0) {
                    m.grid = &grids_[item.grid];
                } else if (m.n > ALL_PAIRS || periodic(item.conformer)) {
                    failure.status = build(own, m, item.conformer);
                    if (failure.status != GOOD) return;
                    m.grid = &own;
                }
                const int first = static_cast<int>(static_cast<int64_t>(m.n) * item.part / item.parts);
                const int last = static_cast<int>(static_cast<int64_t>(m.n) * (item.part + 1) / item.parts);
                centres(call_.mode, c_, m, scratch, first, last, static_cast<const T*>(call_.aev_gradient),
                        static_cast<T*>(call_.aev));
                if (m.crowded_radial || m.crowded_angular) {
                    failure.status = m.crowded_radial ? CROWDED_RADIAL : CROWDED_ANGULAR;
                    return;
                }
                if (m.halted) break;
                if (call_.mode == VJP) write(m, item);
            }
            failure.status = GOOD;
        } catch (...) {  // std::bad_alloc, or std::length_error: nothing else is thrown
            failure.status = NO_MEMORY;
        }
    }

    void write(const Conformer<T>& m, const Item& item) {
        T* out = static_cast<T*>(call_.coordinate_gradient);
        if (item.buffer < 0) {
            for (int k = 0; k < m.n; k++) {
                out[3 * m.row[k]] = m.gx[k];
                out[3 * m.row[k] + 1] = m.gy[k];
                out[3 * m.row[k] + 2] = m.gz[k];
            }
            if (call_.cell_gradient)
                for (int k = 0; k < 9; k++)
                    static_cast<T*>(call_.cell_gradient)[9 * item.conformer + k] = T(m.cell_gradient[k]);
            return;
        }
        double* p = buffer_.data() + item.buffer;
        for (int k = 0; k < m.n; k++) {
            p[3 * k] = m.gx[k];
            p[3 * k + 1] = m.gy[k];
            p[3 * k + 2] = m.gz[k];
        }
        std::copy(m.cell_gradient, m.cell_gradient + 9, p + 3 * static_cast<size_t>(m.n));
    }

    // Adds up the parts of the conformers that were cut, always in the same order.
    void collect() {
        Conformer<T> m;
        std::vector<double> sum;
        for (const Item& item : items_) {
            if (item.buffer < 0) continue;
            const double* p = buffer_.data() + item.buffer;
            const int64_t from = call_.offsets[item.conformer];
            const size_t n = static_cast<size_t>(call_.offsets[item.conformer + 1] - from);
            if (item.part == 0) sum.assign(3 * n + 9, 0.0);
            for (size_t k = 0; k < sum.size(); k++) sum[k] += p[k];
            if (item.part + 1 < item.parts) continue;
            fill(m, item.conformer);
            T* out = static_cast<T*>(call_.coordinate_gradient);
            for (size_t k = 0; k < n; k++)
                for (int a = 0; a < 3; a++) out[3 * m.row[k] + a] = T(sum[3 * k + a]);
            if (call_.cell_gradient)
                for (int k = 0; k < 9; k++)
                    static_cast<T*>(call_.cell_gradient)[9 * item.conformer + k] = T(sum[3 * n + k]);
        }
    }

    const Constants<T> c_;
    const double most_images_;
    const AnipotCall& call_;
    Watch& watch_;
    std::vector<Item> items_;
    std::deque<Grid> grids_;
    std::vector<double> buffer_;
};

}  // namespace
}  // namespace anipot

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C" __attribute__((visibility("default")))
#endif

// Raised with every change of the interface: the Python side refuses a library of another one.
EXPORT int anipot_interface() { return 3; }

// Name of the instruction set in use.
EXPORT const char* anipot_variant() { return anipot::variant().name; }

// Uses another instruction set (for tests); 0 if this machine has it not.
EXPORT int anipot_use_variant(const char* name) {
    for (const anipot::Variant* v : anipot::available())
        if (std::strcmp(v->name, name) == 0) {
            anipot::chosen.store(v);
            return 1;
        }
    return 0;
}

// 0, or a Status, with the conformer of the batch that it is about in *bad (-1: none). ``python`` is
// null for a caller that does not hold Python's lock, or is not its main thread.
EXPORT int anipot_aev(const AnipotSettings* settings, const AnipotCall* call, int64_t* bad,
                      const AnipotPython* python) {
    *bad = -1;
    anipot::Watch watch(python);
    try {
        if (call->bytes == 4) return anipot::Job<float>(*settings, *call, watch).run(bad);
        return anipot::Job<double>(*settings, *call, watch).run(bad);
    } catch (...) {  // nothing may pass into the caller, which is no C++
        return anipot::NO_MEMORY;
    }
}

#if defined(_WIN32)
// Python's build tools ask linkers of Windows to export it. Nothing imports the library.
EXPORT void* PyInit__engine() { return nullptr; }
#endif
