// The kernels' building blocks: vectors of numbers, one image in each lane, and unrolled loops.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

using real = float;

// The width of the widest registers that the compiler may use, and their number.
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, REGISTERS = 32;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, REGISTERS = 16;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, REGISTERS = 32;
#else
constexpr int VECTOR_BYTES = 16, REGISTERS = 16;
#endif
constexpr int LANES = VECTOR_BYTES / sizeof(real);

// `vec a, b; a * b + c` is one instruction for all lanes, on every machine that has it.
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));

// Calls f(0), f(1) ... f(N - 1) with compile-time constants and without a loop, so that arrays of
// accumulators stay in registers.
template <int... I, class F>
inline __attribute__((always_inline)) void unroll_over(std::integer_sequence<int, I...>, F f) {
    (f(std::integral_constant<int, I>{}), ...);
}
template <int N, class F>
inline __attribute__((always_inline)) void unroll(F f) {
    unroll_over(std::make_integer_sequence<int, N>{}, f);
}

inline vec broadcast(real value) { return vec{} + value; }

// A vector from or to any address, aligned or not.
inline vec load(const real* from) {
    vec v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
inline void store(real* to, vec v) { std::memcpy(to, &v, sizeof v); }

// a and b, lane by lane from one or the other: lane l is a[l] or, from LANES on, b[l - LANES].
template <int... L>
inline vec shuffle(vec a, vec b, std::integer_sequence<int, L...>) {
#ifdef __clang__
    return __builtin_shufflevector(a, b, L...);
#else
    using index = std::conditional_t<sizeof(real) == 4, int32_t, int64_t>;
    typedef index indices __attribute__((vector_size(VECTOR_BYTES)));
    return __builtin_shuffle(a, b, indices{L...});
#endif
}

template <int HALF, int... L>
inline real sum_of_halves(vec v, std::integer_sequence<int, L...> lanes) {
    v += shuffle(v, v, std::integer_sequence<int, (L ^ HALF)...>{});
    if constexpr (HALF > 1) return sum_of_halves<HALF / 2>(v, lanes);
    else return v[0];
}
inline real sum_of_lanes(vec v) {
    return sum_of_halves<LANES / 2>(v, std::make_integer_sequence<int, LANES>{});
}

// Swaps the blocks of D x D that lie across the diagonal, in every block of 2 D x 2 D.
template <int D, int... L>
inline void swap_blocks(vec (&rows)[LANES], std::integer_sequence<int, L...>) {
    for (int i = 0; i < LANES; i++) {
        if (i & D) continue;
        const vec a = rows[i], b = rows[i + D];
        rows[i] = shuffle(a, b, std::integer_sequence<int, (L & D ? LANES + L - D : L)...>{});
        rows[i + D] = shuffle(a, b, std::integer_sequence<int, (L & D ? LANES + L : L + D)...>{});
    }
}

// rows[i][l] <-> rows[l][i]
template <int D = 1>
inline void transpose(vec (&rows)[LANES]) {
    swap_blocks<D>(rows, std::make_integer_sequence<int, LANES>{});
    if constexpr (2 * D < LANES) transpose<2 * D>(rows);
}
