// Networks of a few atoms, forward and backward, a member at a time.
//
// Included once for each instruction set, inside that set's namespace, after simd.inl. The weights of
// one member and element fit the second-level cache: what the forward pass has brought there, the
// backward pass finds, and both read the same array. Widths are padded to whole vectors by PAD.

constexpr double LOG2E = 1.4426950408889634074;

template <class T>
INLINE Vec<T> exponential(Vec<T> x) {  // x at most 0
    return exp2v<T>(x * T(LOG2E));
}

// z -> y and slope, in place of z.
template <class T>
INLINE void activate(int kind, T* z, T* slope, int64_t n, bool want) {
    using V = Vec<T>;
    constexpr int W = Simd<T>::W;
    const V zero = V{}, one = V{} + T(1);
    if (kind == GELU) {
        for (int64_t k = 0; k < n; k++) {
            const double x = z[k], phi = 0.5 * (1 + std::erf(x * 0.70710678118654752440));
            if (want) slope[k] = T(phi + x * 0.39894228040143267794 * std::exp(-0.5 * x * x));
            z[k] = T(x * phi);
        }
        return;
    }
    for (int64_t k = 0; k < n; k += W) {
        const V x = load<V>(z + k);
        V y, d;
        switch (kind) {
            case RELU:
                y = x > zero ? x : zero;
                d = x > zero ? one : zero;
                break;
            case CELU: {
                const V e = exponential<T>((x < zero ? x : zero) * T(10));
                y = x > zero ? x : (e - T(1)) * T(0.1);
                d = e;
                break;
            }
            case GAUSSIAN:
                y = exponential<T>(-x * x);
                d = x * y * T(-2);
                break;
            default: {
                // Sigmoid of x or, for tanh, of 2 x, from the exponential of what is negative.
                const V a = kind == TANH ? x * T(2) : x;
                const V e = exponential<T>(a < zero ? a : -a);
                const V s = (a < zero ? e : one) / (e + T(1));
                const V rest = (a < zero ? one : e) / (e + T(1));  // 1 - s
                if (kind == SIGMOID) {
                    y = s;
                    d = s * rest;
                } else if (kind == SILU) {
                    y = x * s;
                    d = s + y * rest;
                } else {
                    y = s - rest;
                    d = s * rest * T(4);
                }
            }
        }
        store(z + k, y);
        if (want) store(slope + k, d);
    }
}

// z = b + x w for R rows and C vectors of columns; w (in, width).
template <class T, int R, int C>
void product(const T* x, int64_t x_stride, int in, const T* w, const T* b, T* z, int width) {
    using V = Vec<T>;
    constexpr int W = Simd<T>::W;
    V sum[R][C];
    for (int c = 0; c < C; c++)
        for (int r = 0; r < R; r++) sum[r][c] = load<V>(b + c * W);
    for (int i = 0; i < in; i++, w += width) {
        V weight[C];
        for (int c = 0; c < C; c++) weight[c] = load<V>(w + c * W);
        for (int r = 0; r < R; r++) {
            const T value = x[r * x_stride + i];
            for (int c = 0; c < C; c++) sum[r][c] += weight[c] * value;
        }
    }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < C; c++) store(z + r * width + c * W, sum[r][c]);
}

template <class T, int R>
void forward_rows(const T* x, int64_t x_stride, int in, const T* w, const T* b, T* z, int width) {
    constexpr int W = Simd<T>::W;
    int left = width / W;
    for (int at = 0; left > 0;) {
        const int blocks = (left + MOST_COLUMNS - 1) / MOST_COLUMNS;
        const int take = (left + blocks - 1) / blocks;  // of about equal size
        if (take == 1) product<T, R, 1>(x, x_stride, in, w + at, b + at, z + at, width);
        if (take == 2) product<T, R, 2>(x, x_stride, in, w + at, b + at, z + at, width);
        if (take == 3) product<T, R, 3>(x, x_stride, in, w + at, b + at, z + at, width);
        if (take == 4) product<T, R, 4>(x, x_stride, in, w + at, b + at, z + at, width);
        at += take * W;
        left -= take;
    }
}

// gx (+)= g w^T for R rows; w (in, width).
template <class T, int R>
void backward_rows(const T* g, int width, const T* w, int in, T* gx, int64_t gx_stride, bool add) {
    using V = Vec<T>;
    constexpr int W = Simd<T>::W;
    constexpr int I = 64 / ANIPOT_BYTES > 2 ? 1 : 4;
    int i = 0;
    for (; i + I <= in; i += I) {
        V sum[I][R] = {};
        for (int o = 0; o < width; o += W) {
            V weight[I];
            for (int k = 0; k < I; k++) weight[k] = load<V>(w + static_cast<int64_t>(i + k) * width + o);
            for (int r = 0; r < R; r++) {
                const V gradient = load<V>(g + r * width + o);
                for (int k = 0; k < I; k++) sum[k][r] += weight[k] * gradient;
            }
        }
        for (int r = 0; r < R; r++)
            for (int k = 0; k < I; k++) {
                T* to = gx + r * gx_stride + i + k;
                const T value = sum_lanes<T>(sum[k][r]);
                *to = add ? *to + value : value;
            }
    }
    for (; i < in; i++)
        for (int r = 0; r < R; r++) {
            V sum = {};
            for (int o = 0; o < width; o += W)
                sum += load<V>(w + static_cast<int64_t>(i) * width + o) * load<V>(g + r * width + o);
            T* to = gx + r * gx_stride + i;
            *to = add ? *to + sum_lanes<T>(sum) : sum_lanes<T>(sum);
        }
}

template <class T>
void forward_layer(int n, const T* x, int64_t x_stride, int in, const T* w, const T* b, T* z, int width) {
    for (int r = 0; r < n; r += ROWS) {
        const T* from = x + r * x_stride;
        T* to = z + static_cast<int64_t>(r) * width;
        switch (std::min(ROWS, n - r)) {
            case 1: forward_rows<T, 1>(from, x_stride, in, w, b, to, width); break;
            case 2: forward_rows<T, 2>(from, x_stride, in, w, b, to, width); break;
            case 3: forward_rows<T, 3>(from, x_stride, in, w, b, to, width); break;
            case 4: forward_rows<T, 4>(from, x_stride, in, w, b, to, width); break;
            case 5: forward_rows<T, 5>(from, x_stride, in, w, b, to, width); break;
            default: forward_rows<T, 6>(from, x_stride, in, w, b, to, width);
        }
    }
}

template <class T>
void backward_layer(int n, const T* g, int width, const T* w, int in, T* gx, int64_t gx_stride, bool add) {
    for (int r = 0; r < n; r += ROWS) {
        const T* from = g + static_cast<int64_t>(r) * width;
        T* to = gx + r * gx_stride;
        switch (std::min(ROWS, n - r)) {
            case 1: backward_rows<T, 1>(from, width, w, in, to, gx_stride, add); break;
            case 2: backward_rows<T, 2>(from, width, w, in, to, gx_stride, add); break;
            case 3: backward_rows<T, 3>(from, width, w, in, to, gx_stride, add); break;
            case 4: backward_rows<T, 4>(from, width, w, in, to, gx_stride, add); break;
            case 5: backward_rows<T, 5>(from, width, w, in, to, gx_stride, add); break;
            default: backward_rows<T, 6>(from, width, w, in, to, gx_stride, add);
        }
    }
}

// One element: all members, one after another.
template <class T>
void element(const AnipotNetworks& net, T* memory) {
    const int n = net.rows, hidden = net.hidden, length = net.widths[0];
    const T* x = static_cast<const T*>(net.x);
    T* gradient = static_cast<T*>(net.gradient);
    const bool want = gradient != nullptr;
    T *y[MOST_LAYERS + 1], *slope[MOST_LAYERS + 1];
    int width[MOST_LAYERS + 1];
    width[0] = length;
    for (int l = 1; l <= hidden; l++) {
        width[l] = padded(net.widths[l]);
        y[l] = memory, memory += static_cast<int64_t>(n) * width[l];
        slope[l] = memory, memory += static_cast<int64_t>(n) * width[l];
    }
    T* g = memory;
    for (int k = 0; k < net.members; k++) {
        const void* const* w = net.weights + k * (hidden + 1);
        const void* const* b = net.biases + k * (hidden + 1);
        for (int l = 1; l <= hidden; l++) {
            const T* from = l == 1 ? x : y[l - 1];
            forward_layer<T>(n, from, width[l - 1], net.widths[l - 1], static_cast<const T*>(w[l - 1]),
                             static_cast<const T*>(b[l - 1]), y[l], width[l]);
            activate<T>(net.activation, y[l], slope[l], static_cast<int64_t>(n) * width[l], want);
        }
        const T* last = static_cast<const T*>(w[hidden]);
        const T* input = hidden ? y[hidden] : x;
        const T seed = T(net.seeds[k]);
        T* out = static_cast<T*>(net.out) + k * net.out_stride;
        for (int r = 0; r < n; r++) {
            T sum[PAD] = {};
            int i = 0;
            for (; i + PAD <= net.widths[hidden]; i += PAD)
                for (int a = 0; a < PAD; a++) sum[a] += input[static_cast<int64_t>(r) * width[hidden] + i + a] * last[i + a];
            for (int a = 0; i < net.widths[hidden]; i++, a++)
                sum[a] += input[static_cast<int64_t>(r) * width[hidden] + i] * last[i];
            T total = *static_cast<const T*>(b[hidden]);
            for (int a = 0; a < PAD; a++) total += sum[a];
            // One number in a whole vector: the activations work on those.
            T value[PAD] = {total}, d[PAD] = {T(1)};
            if (net.output_activation != LINEAR) activate<T>(net.output_activation, value, d, Simd<T>::W, want);
            out[r] = value[0];
            if (!want) continue;
            const T factor = seed * d[0];
            if (hidden == 0) {
                for (int c = 0; c < length; c++)
                    gradient[static_cast<int64_t>(r) * length + c] = (k ? gradient[static_cast<int64_t>(r) * length + c] : T(0)) + factor * last[c];
            } else {  // into the slopes, which are not needed any more
                T* s = slope[hidden] + static_cast<int64_t>(r) * width[hidden];
                for (int c = 0; c < width[hidden]; c++) s[c] *= c < net.widths[hidden] ? factor * last[c] : T(0);
            }
        }
        if (!want || hidden == 0) continue;
        for (int l = hidden; l > 1; l--) {
            backward_layer<T>(n, slope[l], width[l], static_cast<const T*>(w[l - 1]), net.widths[l - 1], g,
                              width[l - 1], false);
            for (int r = 0; r < n; r++) {
                T* s = slope[l - 1] + static_cast<int64_t>(r) * width[l - 1];
                const T* from = g + static_cast<int64_t>(r) * width[l - 1];
                for (int c = 0; c < net.widths[l - 1]; c++) s[c] *= from[c];
                for (int c = net.widths[l - 1]; c < width[l - 1]; c++) s[c] = T(0);
            }
        }
        backward_layer<T>(n, slope[1], width[1], static_cast<const T*>(w[0]), length, gradient, length, k > 0);
    }
}

void element_float(const AnipotNetworks& net, float* memory) { element<float>(net, memory); }
void element_double(const AnipotNetworks& net, double* memory) { element<double>(net, memory); }
