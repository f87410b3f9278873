// The network's shape, and the layout of its data in the caller's memory, in a thread's memory and
// in the lanes of vectors.
#pragma once
#include <algorithm>
#include <cmath>

#include "convolution.h"
#include "dense.h"
#include "pooling.h"

using C1 = Convolution<1, 6, 28, 3, 4>;
using C3 = Convolution<6, 16, 10, 2, 5>;

constexpr int IMAGE = 32 * 32, C1_SIZE = 6 * 28 * 28, S2_SIZE = 6 * 14 * 14, C3_SIZE = 16 * 10 * 10,
              S4_SIZE = 16 * 5 * 5, MOST_LAYERS = 8, MOST_CLASSES = 1000;

// The network. op.py has the same structure.
struct Net {
    int32_t activation, pooling;  // see with_activation, with_pooling
    int32_t layers;               // dense ones
    int32_t activated;            // how many of them, the first ones, have an activation
    int32_t units[MOST_LAYERS + 1];  // the first is S4_SIZE
    real amplitude, slope;           // of ScaledTanh
};

// The order of the parameters in arrays. Weight and bias of each dense layer follow.
enum { WEIGHT1, BIAS1, WEIGHT2, BIAS2, COEFFICIENT1, SHIFT1, COEFFICIENT2, SHIFT2, DENSE };
constexpr int CONV_SIZES[DENSE] = {6 * TAPS, 6, 16 * 6 * TAPS, 16, 6, 6, 16, 16},
              SUMS = 6 * TAPS + 6 + 16 * 6 * TAPS + 16 + 2 * 6 + 2 * 16;

template <class F>
void with_activation(const Net& net, F f) {
    switch (net.activation) {
        case 0: return f(Tanh{});
        case 1: return f(ScaledTanh{net.amplitude, net.slope});
        case 2: return f(Sigmoid{});
        case 3: return f(Relu{});
    }
}

template <class F>
void with_pooling(const Net& net, F f) {
    switch (net.pooling) {
        case 0: return f(Average{});
        case 1: return f(Maximum{});
        case 2: return f(Subsample{});
    }
}

// The outputs of one group's layers, kept for backward. `hidden` has the outputs of the dense
// layers, one after the other.
struct Group {
    vec *image, *c1, *s2, *c3, *s4, *hidden;

    static int64_t size(const Net& net) {
        int64_t size = IMAGE + C1_SIZE + S2_SIZE + C3_SIZE + S4_SIZE;
        for (int l = 1; l <= net.layers; l++) size += net.units[l];
        return size;
    }
    explicit Group(vec* at) {
        image = at, c1 = image + IMAGE, s2 = c1 + C1_SIZE, c3 = s2 + S2_SIZE, s4 = c3 + C3_SIZE;
        hidden = s4 + S4_SIZE;
    }
};

// Each dense layer's inputs, or the gradients of its outputs, image by image: [layer][n][unit].
static int64_t rows_offset(const Net& net, int64_t n, int layer, int first_unit) {
    int64_t offset = 0;
    for (int l = 0; l < layer; l++) offset += n * padded(net.units[first_unit + l]);
    return offset;
}

static int64_t groups_of(int64_t n) { return (n + LANES - 1) / LANES; }

// One thread's memory for backward.
struct Scratch {
    vec *c3_grad, *s2_grad, *c1_grad, *grad, *next_grad, *sums[DENSE];  // sums of each lane

    static int64_t size(const Net& net) {
        return C3_SIZE + S2_SIZE + 2 * 28 * 6 + 2 * widest(net) + SUMS;
    }
    static int widest(const Net& net) {
        return *std::max_element(net.units, net.units + net.layers + 1);
    }
    Scratch(const Net& net, vec* at) {
        c3_grad = at, s2_grad = c3_grad + C3_SIZE, c1_grad = s2_grad + S2_SIZE;
        grad = c1_grad + 2 * 28 * 6, next_grad = grad + widest(net);
        sums[0] = next_grad + widest(net);
        for (int p = 1; p < DENSE; p++) sums[p] = sums[p - 1] + CONV_SIZES[p - 1];
    }
    void clear() const { std::fill_n(sums[0], SUMS, vec{}); }
    Trained pooling_sums(const real* const* parameters, int coefficient) const {
        return {parameters[coefficient], parameters[coefficient + 1], sums[coefficient],
                sums[coefficient + 1]};
    }
};

// Rows of images -> lanes; lanes without an image get 0. The opposite is below.
static void to_lanes(const real* rows, int64_t stride, int count, int units, vec* lanes) {
    int u = 0;
    for (; u + LANES <= units; u += LANES) {
        vec square[LANES];
        for (int lane = 0; lane < LANES; lane++)
            square[lane] = lane < count ? load(rows + lane * stride + u) : vec{};
        transpose(square);
        std::copy_n(square, LANES, lanes + u);
    }
    for (; u < units; u++) {
        lanes[u] = vec{};
        for (int lane = 0; lane < count; lane++) lanes[u][lane] = rows[lane * stride + u];
    }
}

static void to_rows(const vec* lanes, int64_t stride, int count, int units, real* rows) {
    int u = 0;
    for (; u + LANES <= units; u += LANES) {
        vec square[LANES];
        std::copy_n(lanes + u, LANES, square);
        transpose(square);
        for (int lane = 0; lane < count; lane++) store(rows + lane * stride + u, square[lane]);
    }
    for (; u < units; u++)
        for (int lane = 0; lane < count; lane++) rows[lane * stride + u] = lanes[u][lane];
}

// Calls f(p, offset, count) for each parameter: its place and size in an array of all gradients.
template <class F>
void for_parameters(const Net& net, F f) {
    int64_t offset = 0;
    const auto next = [&](int p, int64_t count) { f(p, offset, count), offset += count; };
    for (int p = 0; p < DENSE; p++) next(p, CONV_SIZES[p]);
    for (int l = 0; l < net.layers; l++) {
        next(DENSE + 2 * l, int64_t(net.units[l]) * net.units[l + 1]);
        next(DENSE + 2 * l + 1, net.units[l + 1]);
    }
}

// The addresses of the parameters, copied: a late thread may read them when the caller's are gone.
struct Parameters {
    const real* at[DENSE + 2 * MOST_LAYERS];
    Parameters(const Net& net, const real* const* from) {
        std::copy_n(from, DENSE + 2 * net.layers, at);
    }
};
