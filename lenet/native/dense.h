// Dense layers. Weights have PyTorch's layout, [out][in]. Outputs and the gradients of inputs are
// computed for one group of images at a time, [unit][lane]. The gradient of weights sums over
// images, so it reads both factors image by image, [image][unit], with units in the lanes.
#pragma once
#include "vector.h"

// For OUTPUTS outputs from j on: out[j] = f(bias[j] + sum over i of weight[j][i] * in[i])
template <int OUTPUTS, class F>
void dense_outputs(const vec* in, const real* weight, const real* bias, int ins, int j, F f,
                   vec* out) {
    vec sum[OUTPUTS];
    unroll<OUTPUTS>([&](auto o) { sum[o] = broadcast(bias[j + o]); });
    const real* row = weight + int64_t(j) * ins;
    for (int i = 0; i < ins; i++) {
        const vec x = in[i];
        unroll<OUTPUTS>([&](auto o) { sum[o] += row[o * ins + i] * x; });
    }
    unroll<OUTPUTS>([&](auto o) { out[j + o] = f(sum[o]); });
}

template <class F>
void dense(const vec* in, const real* weight, const real* bias, int ins, int outs, F f, vec* out) {
    constexpr int BLOCK = 12;
    int j = 0;
    for (; j + BLOCK <= outs; j += BLOCK) dense_outputs<BLOCK>(in, weight, bias, ins, j, f, out);
    for (; j < outs; j++) dense_outputs<1>(in, weight, bias, ins, j, f, out);
}

// For INPUTS inputs from i on: in_grad[i] = sum over j of weight[j][i] * out_grad[j]
template <int INPUTS>
void dense_input_grads(const vec* out_grad, const real* weight, int ins, int outs, int i,
                       vec* in_grad) {
    vec sum[INPUTS] = {};
    for (int j = 0; j < outs; j++) {
        const vec g = out_grad[j];
        const real* row = weight + int64_t(j) * ins + i;
        unroll<INPUTS>([&](auto k) { sum[k] += row[k] * g; });
    }
    unroll<INPUTS>([&](auto k) { in_grad[i + k] = sum[k]; });
}

inline void dense_input_grad(const vec* out_grad, const real* weight, int ins, int outs,
                             vec* in_grad) {
    constexpr int BLOCK = 12;
    int i = 0;
    for (; i + BLOCK <= ins; i += BLOCK)
        dense_input_grads<BLOCK>(out_grad, weight, ins, outs, i, in_grad);
    for (; i < ins; i++) dense_input_grads<1>(out_grad, weight, ins, outs, i, in_grad);
}

// The length of a row of a layer's units in whole vectors. The padding is 0.
inline int padded(int units) { return (units + LANES - 1) / LANES * LANES; }

// weight_grad[j][i] = sum over images n of out_grad[n][j] * in[n][i], for OUTPUTS rows from j on
// and VECTORS vectors of inputs from i on.
template <int OUTPUTS, int VECTORS>
void dense_weight_grads(const real* in, const real* out_grad, int64_t images, int ins, int outs,
                        int j, int i, real* weight_grad) {
    vec sum[OUTPUTS][VECTORS] = {};
    const int in_stride = padded(ins), out_stride = padded(outs);
    for (int64_t n = 0; n < images; n++) {
        const real *x = in + n * in_stride + i, *g = out_grad + n * out_stride + j;
        vec inputs[VECTORS];
        unroll<VECTORS>([&](auto v) { inputs[v] = load(x + v * LANES); });
        unroll<OUTPUTS>([&](auto o) {
            const vec grad = broadcast(g[o]);
            unroll<VECTORS>([&](auto v) { sum[o][v] += grad * inputs[v]; });
        });
    }
    unroll<OUTPUTS>([&](auto o) {
        unroll<VECTORS>([&](auto v) {
            const int first = i + v * LANES, left = ins - first;
            real* to = weight_grad + int64_t(j + o) * ins + first;
            if (left >= LANES) store(to, sum[o][v]);
            else std::memcpy(to, &sum[o][v], left * sizeof(real));
        });
    });
}

// Rows j_begin to j_end of the gradients of the weights and the bias.
inline void dense_weight_grad(const real* in, const real* out_grad, int64_t images, int ins,
                              int outs, int j_begin, int j_end, real* weight_grad,
                              real* bias_grad) {
    constexpr int OUTPUTS = 4, VECTORS = REGISTERS >= 32 ? 5 : 2;
    // Inputs in the outer loop: a block of inputs of all images stays in the L1 cache.
    const auto columns = [&](auto vectors, int i) {
        int j = j_begin;
        for (; j + OUTPUTS <= j_end; j += OUTPUTS)
            dense_weight_grads<OUTPUTS, vectors>(in, out_grad, images, ins, outs, j, i, weight_grad);
        for (; j < j_end; j++)
            dense_weight_grads<1, vectors>(in, out_grad, images, ins, outs, j, i, weight_grad);
    };
    int i = 0;
    for (; i + VECTORS * LANES <= padded(ins); i += VECTORS * LANES)
        columns(std::integral_constant<int, VECTORS>{}, i);
    for (; i < ins; i += LANES) columns(std::integral_constant<int, 1>{}, i);
    for (int j = j_begin; j < j_end; j++) {
        real sum = 0;
        for (int64_t n = 0; n < images; n++) sum += out_grad[n * padded(outs) + j];
        bias_grad[j] = sum;
    }
}
