// Vectors of ANIPOT_BYTES bytes, and the few functions of them that AEVs need.
//
// Included once for each instruction set, inside that set's namespace. GCC's and Clang's vector
// types are used, not intrinsics: the same text serves x86 and Arm. No function here is called with
// NaN, and none depends on -ffast-math.

template <class T>
struct Simd;

template <>
struct Simd<float> {
    using V = float __attribute__((vector_size(ANIPOT_BYTES)));
    using I = int32_t __attribute__((vector_size(ANIPOT_BYTES)));
    using V8 = float __attribute__((vector_size(32)));
    using V4 = float __attribute__((vector_size(16)));
    static constexpr int W = ANIPOT_BYTES / 4;
    static constexpr int mantissa = 23;
    static constexpr float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    static constexpr float lowest = -126.0f;  // exponent of the smallest normal number
    static constexpr int32_t half_bits = 0x3f3504f3;  // sqrt(1/2)
    static constexpr float tiny = 1e-30f;
};

template <>
struct Simd<double> {
    using V = double __attribute__((vector_size(ANIPOT_BYTES)));
    using I = int64_t __attribute__((vector_size(ANIPOT_BYTES)));
    using V8 = double __attribute__((vector_size(64)));
    using V4 = double __attribute__((vector_size(32)));
    static constexpr int W = ANIPOT_BYTES / 8;
    static constexpr int mantissa = 52;
    static constexpr double magic = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr double lowest = -1022.0;
    static constexpr int64_t half_bits = 0x3fe6a09e667f3bcdLL;
    static constexpr double tiny = 1e-200;
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using Int = typename Simd<T>::I;

template <class V, class T>
INLINE V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof(V));
    return v;
}

template <class V, class T>
INLINE void store(T* p, V v) {
    std::memcpy(p, &v, sizeof(V));
}

template <class V, class U>
INLINE V bits(U u) {
    static_assert(sizeof(V) == sizeof(U), "bits: sizes differ");
    V v;
    std::memcpy(&v, &u, sizeof(V));
    return v;
}

// 2^y, y at most 0 or little above; below the exponents of normal numbers it is clamped to them.
// Relative error below 2 units in the last place.
// The polynomials are Chebyshev fits of 2^f, |f| <= 1/2: errors 2e-9 (float), 3e-18 (double).
template <class T>
INLINE Vec<T> exp2v(Vec<T> y) {
    using S = Simd<T>;
    using V = Vec<T>;
    using I = Int<T>;
    y = y > S::lowest ? y : V{} + S::lowest;
    const V shifted = y + S::magic;
    const V f = y - (shifted - S::magic);
    V p;
    if constexpr (sizeof(T) == 4) {
        p = f * 1.5461444e-4f + 1.3400428e-3f;
        p = p * f + 9.6180567e-3f;
        p = p * f + 5.5503267e-2f;
        p = p * f + 2.4022651e-1f;
        p = p * f + 6.9314721e-1f;
        p = p * f + 1.0f;
    } else {
        p = f * 4.455817908336064493e-10 + 7.0741942972885210056e-9;
        p = p * f + 1.0178057087733941105e-7;
        p = p * f + 1.3215432535912376166e-6;
        p = p * f + 1.5252733841556772589e-5;
        p = p * f + 1.5403530463724354209e-4;
        p = p * f + 1.3333558146406470697e-3;
        p = p * f + 9.6181291075872566681e-3;
        p = p * f + 5.5504108664821627039e-2;
        p = p * f + 2.4022650695910159567e-1;
        p = p * f + 6.9314718055994530925e-1;
        p = p * f + 1.0;
    }
    return bits<V>(bits<I>(p) + (bits<I>(shifted) << S::mantissa));
}

// log2(x) of positive normal x: exponent plus 2 / ln 2 * atanh((m - 1) / (m + 1)), with the mantissa m
// between sqrt(1/2) and sqrt(2), so that x near 1 keeps its relative accuracy.
template <class T>
INLINE Vec<T> log2v(Vec<T> x) {
    using S = Simd<T>;
    using V = Vec<T>;
    using I = Int<T>;
    const I e = (bits<I>(x) - S::half_bits) >> S::mantissa;
    const V m = bits<V>(bits<I>(x) - (e << S::mantissa));
    const V exponent = bits<V>(bits<I>(V{} + S::magic) + e) - S::magic;
    const V s = (m - T(1)) / (m + T(1));
    const V z = s * s;
    V p;
    if constexpr (sizeof(T) == 4) {
        p = z * 0.32059889f + 0.41219858f;
        p = p * z + 0.57707802f;
        p = p * z + 0.96179669f;
        p = p * z + 2.8853901f;
    } else {
        constexpr double c = 2.8853900817779268147;  // 2 / ln 2
        p = z * (c / 23) + c / 21;
        p = p * z + c / 19;
        p = p * z + c / 17;
        p = p * z + c / 15;
        p = p * z + c / 13;
        p = p * z + c / 11;
        p = p * z + c / 9;
        p = p * z + c / 7;
        p = p * z + c / 5;
        p = p * z + c / 3;
        p = p * z + c;
    }
    return exponent + s * p;
}

// sin(w) and cos(w) for 0 <= w <= pi / 2: Taylor series, whose remainders are below rounding there.
template <class T>
INLINE void sincosv(Vec<T> w, Vec<T>& sine, Vec<T>& cosine) {
    constexpr int terms = sizeof(T) == 4 ? 7 : 12;
    const Vec<T> z = w * w;
    Vec<T> s = Vec<T>{} + T(1), c = s;
    // Innermost first: 1 - z/(2k(2k+1)) (1 - ...), and the same for the cosine.
    for (int k = terms - 1; k >= 1; k--) {
        s = T(1) - z * T(1.0 / (2.0 * k * (2.0 * k + 1))) * s;
        c = T(1) - z * T(1.0 / (2.0 * k * (2.0 * k - 1))) * c;
    }
    sine = w * s;
    cosine = c;
}

// Square roots of the lanes, none of them negative.
template <class T>
INLINE Vec<T> sqrtv(Vec<T> v) {
#if defined(__clang__) && defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_sqrt)
#define ANIPOT_SQRT 1
    return __builtin_elementwise_sqrt(v);
#endif
#elif defined(__x86_64__) && ANIPOT_BYTES == 64
#define ANIPOT_SQRT 1
    if constexpr (sizeof(T) == 4)
        return __builtin_ia32_sqrtps512_mask(v, v, -1, 4);  // 4: the rounding that is in force
    else
        return __builtin_ia32_sqrtpd512_mask(v, v, -1, 4);
#elif defined(__x86_64__) && ANIPOT_BYTES == 32
#define ANIPOT_SQRT 1
    if constexpr (sizeof(T) == 4)
        return __builtin_ia32_sqrtps256(v);
    else
        return __builtin_ia32_sqrtpd256(v);
#elif defined(__x86_64__) && ANIPOT_BYTES == 16
#define ANIPOT_SQRT 1
    if constexpr (sizeof(T) == 4)
        return __builtin_ia32_sqrtps(v);
    else
        return __builtin_ia32_sqrtpd(v);
#endif
#if !defined(ANIPOT_SQRT)
    for (int l = 0; l < Simd<T>::W; l++)
        v[l] = sizeof(T) == 4 ? T(__builtin_sqrtf(float(v[l]))) : T(__builtin_sqrt(double(v[l])));
    return v;
#endif
#undef ANIPOT_SQRT
}

// The halves of a vector, added.
template <class H, class V>
INLINE H fold(V v) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define ANIPOT_SHUFFLE 1
#endif
#endif
#if defined(ANIPOT_SHUFFLE)
    constexpr int n = sizeof(V) / sizeof(v[0]);
    if constexpr (n == 16)
        return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
               __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    else
        return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
    H h[2];
    std::memcpy(h, &v, sizeof(v));
    return h[0] + h[1];
#endif
}

// Sum of the lanes, in an order that is the same for every call.
template <class T, class V>
INLINE T sum_lanes(V v) {
    constexpr int n = sizeof(V) / sizeof(T);
    if constexpr (n == 16)
        return sum_lanes<T>(fold<typename Simd<T>::V8>(v));
    else if constexpr (n == 8)
        return sum_lanes<T>(fold<typename Simd<T>::V4>(v));
    else if constexpr (n == 4)
        return (v[0] + v[2]) + (v[1] + v[3]);
    else
        return v[0] + v[1];
}
