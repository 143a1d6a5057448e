// The kernels in the file ANIPOT_KERNELS, once for each instruction set, each in a namespace of its own.

namespace base {
#define ANIPOT_BYTES 16
#include "simd.inl"
#include ANIPOT_KERNELS
#undef ANIPOT_BYTES
}  // namespace base

#ifdef ANIPOT_VARIANTS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
namespace avx2 {
#define ANIPOT_BYTES 32
#include "simd.inl"
#include ANIPOT_KERNELS
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
#include "simd.inl"
#include ANIPOT_KERNELS
#undef ANIPOT_BYTES
}  // namespace avx512
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // ANIPOT_VARIANTS
