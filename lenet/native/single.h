// A whole training step on one image. With one image in each lane, all other lanes would be empty.
// Here the columns of the image fill the lanes, and each weight changes as soon as its gradient is
// known and its old value is no longer needed.
//
// Planes are [map][row][column]. Their rows are padded to a stride of whole vectors. The padding of
// a gradient is 0, so the padding of the other factor has no effect.
#pragma once
#include "network.h"

constexpr int DIGITS = 10;  // the classes that have a bitmap

constexpr int whole(int columns) { return (columns + LANES - 1) / LANES * LANES; }

// Strides. A convolution's input is BORDER columns wider than its output. C3's gradient has a
// border on each side, for backward.
constexpr int BORDER = KERNEL - 1, C1_STRIDE = whole(28), C3_STRIDE = whole(10),
              S4_STRIDE = whole(5), IMAGE_STRIDE = whole(C1_STRIDE + BORDER),
              S2_STRIDE = whole(std::max(C3_STRIDE + BORDER, whole(14))),
              C3_GRAD_ROWS = 10 + 2 * BORDER, C3_GRAD_STRIDE = whole(whole(14) + BORDER),
              C3_GRAD_MAP = C3_GRAD_ROWS * C3_GRAD_STRIDE;

// The even and the odd columns of two neighbouring vectors, and the inverse.
template <int... L>
inline void split(vec a, vec b, vec& even, vec& odd, std::integer_sequence<int, L...>) {
    even = shuffle(a, b, std::integer_sequence<int, (2 * L)...>{});
    odd = shuffle(a, b, std::integer_sequence<int, (2 * L + 1)...>{});
}
template <int... L>
inline void merge(vec even, vec odd, vec& a, vec& b, std::integer_sequence<int, L...>) {
    a = shuffle(even, odd, std::integer_sequence<int, (L / 2 + L % 2 * LANES)...>{});
    b = shuffle(even, odd, std::integer_sequence<int, (LANES / 2 + L / 2 + L % 2 * LANES)...>{});
}
using Lanes = std::make_integer_sequence<int, LANES>;

// Two vectors of columns make one vector of pooled columns. In a row with an odd number of vectors
// the last one has no neighbour.
inline vec load_within(const real* row, int column, int stride) {
    return column < stride ? load(row + column) : vec{};
}
inline void store_within(real* row, int column, int stride, vec v) {
    if (column < stride) store(row + column, v);
}

template <int MAPS, int SIDE, int STRIDE, int POOLED_STRIDE, class A, class P>
void squash_and_pool(real* conv, A f, P pooling, const Trained& trained, real* pooled) {
    for (int m = 0; m < MAPS; m++)
        for (int Y = 0; Y < SIDE / 2; Y++) {
            real* above = conv + (m * SIDE + 2 * Y) * STRIDE;
            real* rows[2] = {above, above + STRIDE};
            for (int x = 0; x < STRIDE; x += 2 * LANES) {
                vec four[4];
                for (int r = 0; r < 2; r++) {
                    const vec a = f.of(load(rows[r] + x));
                    const vec b = f.of(load_within(rows[r], x + LANES, STRIDE));
                    store(rows[r] + x, a), store_within(rows[r], x + LANES, STRIDE, b);
                    split(a, b, four[2 * r], four[2 * r + 1], Lanes{});
                }
                store(pooled + (m * (SIDE / 2) + Y) * POOLED_STRIDE + x / 2,
                      pooling.down(four, f, trained, m));
            }
        }
}

// conv_grad has its own stride, and begins at its map 0, row 0, column 0.
template <int MAPS, int SIDE, int STRIDE, int POOLED_STRIDE, class A, class P>
void unpool_and_unsquash(const real* conv, const real* pooled, const real* pooled_grad, A f,
                         P pooling, const Trained& trained, real* conv_grad, int map_stride,
                         int row_stride) {
    for (int m = 0; m < MAPS; m++)
        for (int Y = 0; Y < SIDE / 2; Y++) {
            const int first = (m * SIDE + 2 * Y) * STRIDE;
            real* grad_rows = conv_grad + m * map_stride + 2 * Y * row_stride;
            for (int x = 0; x < STRIDE; x += 2 * LANES) {
                const int one = (m * (SIDE / 2) + Y) * POOLED_STRIDE + x / 2;
                vec four[4], grad[4], a, b;
                for (int r = 0; r < 2; r++)
                    split(load(conv + first + r * STRIDE + x),
                          load_within(conv + first + r * STRIDE, x + LANES, STRIDE), four[2 * r],
                          four[2 * r + 1], Lanes{});
                pooling.up(four, load(pooled + one), load(pooled_grad + one), f, trained, m, grad);
                for (int i = 0; i < 4; i++) grad[i] *= f.derivative(four[i]);
                for (int r = 0; r < 2; r++) {
                    merge(grad[2 * r], grad[2 * r + 1], a, b, Lanes{});
                    store(grad_rows + r * row_stride + x, a);
                    store_within(grad_rows + r * row_stride, x + LANES, STRIDE, b);
                }
            }
        }
}

// out[m][y] = bias[m] + sum over c, ky, kx of weight[m][c][ky][kx] * in[c][y + ky], from its column
// kx on
template <class C, int COLUMNS, int BLOCK, int IN_STRIDE, int STRIDE>
void convolve(const real* in, const real* weight, const real* bias, real* out) {
    constexpr int INS = C::maps_in;
    for (int m = 0; m < C::maps_out; m += BLOCK)
        for (int y = 0; y < C::side; y++)
            for (int x = 0; x < COLUMNS; x += LANES) {
                vec sum[BLOCK];
                unroll<BLOCK>([&](auto i) { sum[i] = broadcast(bias[m + i]); });
                for (int c = 0; c < INS; c++)
                    for (int ky = 0; ky < KERNEL; ky++) {
                        const real* row = in + (c * C::side_in + y + ky) * IN_STRIDE + x;
                        const real* taps = weight + (m * INS + c) * TAPS + ky * KERNEL;
                        unroll<KERNEL>([&](auto kx) {
                            const vec v = load(row + kx);
                            unroll<BLOCK>([&](auto i) { sum[i] += taps[i * INS * TAPS + kx] * v; });
                        });
                    }
                unroll<BLOCK>(
                    [&](auto i) { store(out + ((m + i) * C::side + y) * STRIDE + x, sum[i]); });
            }
}

// grad[m][c][ky][kx] = sum over y and columns of out_grad[m][y] * in[c][y + ky] from column kx on,
// and bias_grad[m] = that of out_grad alone.
template <class C, int COLUMNS, int BLOCK, int IN_STRIDE, int STRIDE>
void weight_grads(const real* in, const real* out_grad, int map_stride, real* grad,
                  real* bias_grad) {
    constexpr int INS = C::maps_in;
    for (int m = 0; m < C::maps_out; m += BLOCK) {
        for (int c = 0; c < INS; c++)
            for (int ky = 0; ky < KERNEL; ky++) {
                vec sum[BLOCK][KERNEL] = {};
                for (int y = 0; y < C::side; y++)
                    for (int x = 0; x < COLUMNS; x += LANES) {
                        const real* row = in + (c * C::side_in + y + ky) * IN_STRIDE + x;
                        const real* g = out_grad + m * map_stride + y * STRIDE + x;
                        vec grads[BLOCK];
                        unroll<BLOCK>([&](auto i) { grads[i] = load(g + i * map_stride); });
                        unroll<KERNEL>([&](auto kx) {
                            const vec v = load(row + kx);
                            unroll<BLOCK>([&](auto i) { sum[i][kx] += grads[i] * v; });
                        });
                    }
                real* taps = grad + (m * INS + c) * TAPS + ky * KERNEL;
                for (int i = 0; i < BLOCK; i++)
                    for (int kx = 0; kx < KERNEL; kx++)
                        taps[i * INS * TAPS + kx] = sum_of_lanes(sum[i][kx]);
            }
        for (int i = 0; i < BLOCK; i++) {
            vec sum = {};
            for (int y = 0; y < C::side; y++)
                for (int x = 0; x < COLUMNS; x += LANES)
                    sum += load(out_grad + (m + i) * map_stride + y * STRIDE + x);
            bias_grad[m + i] = sum_of_lanes(sum);
        }
    }
}

// The output layer and the loss. op.py has the same structure.
struct Head {
    int32_t loss;        // 0 cross entropy, 1 maximum a posteriori, 2 squared error
    int32_t distances;   // whether the outputs are minus squared distances to the rows of `centres`
    real smoothing;      // of the cross entropy
    real rubbish;        // j, of the maximum a posteriori
    real scale;          // of the squared distances
    const real* centres; // [DIGITS][the last dense layer's units]
};

// The connections of C3: the output map of each, then the input map of each. None: all of them.
struct Pairs {
    int32_t count;
    const int64_t *out, *in;
};

// The loss of these outputs. Its gradient replaces them.
inline real loss_of(const Head& head, real* outputs, int classes, int64_t label) {
    if (head.loss == 2 && head.distances) {
        const real loss = -outputs[label];
        for (int k = 0; k < classes; k++) outputs[k] = k == label ? -1 : 0;
        return loss;
    }
    if (head.loss == 2) {
        real loss = 0;
        for (int k = 0; k < classes; k++) {
            const real error = outputs[k] - (k == label ? 1 : -1);
            loss += error * error;
            outputs[k] = 2 * error;
        }
        return loss;
    }
    const bool rubbish = head.loss == 1;
    real largest = rubbish ? -head.rubbish : outputs[0];
    for (int k = 0; k < classes; k++) largest = outputs[k] > largest ? outputs[k] : largest;
    real sum = rubbish ? std::exp(-head.rubbish - largest) : 0;
    for (int k = 0; k < classes; k++) sum += std::exp(outputs[k] - largest);
    const real log_sum = std::log(sum) + largest;
    real loss = 0;
    for (int k = 0; k < classes; k++) {
        const real log_probability = outputs[k] - log_sum;
        const real smoothing = rubbish ? 0 : head.smoothing;
        const real target = smoothing / classes + (k == label ? 1 - smoothing : 0);
        loss -= target * log_probability;
        outputs[k] = std::exp(log_probability) - target;
    }
    return loss;
}

// The layout of the memory for one image.
struct Planes {
    int64_t image, c1, s2, c3, s4, s4_grad, c3_grad, s2_grad, c1_grad;
    int64_t weight2, weight2_grad, turned;  // C3's kernels among zeros, and turned around
    int64_t hidden;           // the dense layers' inputs and outputs, one after the other
    int64_t grad, next_grad;  // of one of them
    int64_t size = 0;

    explicit Planes(const Net& net) {
        const auto take = [&](int64_t reals) {
            size += whole(reals) + LANES;
            return size - whole(reals) - LANES;
        };
        image = take(32 * IMAGE_STRIDE), c1 = take(6 * 28 * C1_STRIDE);
        s2 = take(6 * 14 * S2_STRIDE), c3 = take(16 * 10 * C3_STRIDE);
        s4 = take(16 * 5 * S4_STRIDE);
        s4_grad = take(16 * 5 * S4_STRIDE), c3_grad = take(16 * C3_GRAD_MAP);
        s2_grad = take(6 * 14 * S2_STRIDE), c1_grad = take(6 * 28 * C1_STRIDE);
        weight2 = take(CONV_SIZES[WEIGHT2]), weight2_grad = take(CONV_SIZES[WEIGHT2]);
        turned = take(CONV_SIZES[WEIGHT2]);
        int64_t units = 0, widest = MOST_CLASSES;
        for (int l = 0; l <= net.layers; l++) {
            units += whole(net.units[l]);
            widest = std::max<int64_t>(widest, net.units[l]);
        }
        hidden = take(units), grad = take(widest), next_grad = take(widest);
    }
};

inline real dot(const real* a, const real* b, int size) {
    vec sum = {};
    int i = 0;
    for (; i + LANES <= size; i += LANES) sum += load(a + i) * load(b + i);
    real total = sum_of_lanes(sum);
    for (; i < size; i++) total += a[i] * b[i];
    return total;
}

// From the last layer's states to the outputs, the loss, and the gradient of the states.
inline real score(const Head& head, const real* states, int size, int64_t label, real* output,
                  real* grad) {
    if (!head.distances) {
        std::copy_n(states, size, output), std::copy_n(states, size, grad);
        return loss_of(head, grad, size, label);
    }
    real scores[DIGITS];
    for (int k = 0; k < DIGITS; k++) {
        scores[k] = 0;
        for (int j = 0; j < size; j++) {
            const real apart = states[j] - head.centres[k * size + j];
            scores[k] -= apart * apart;
        }
        scores[k] *= head.scale;
    }
    std::copy_n(scores, DIGITS, output);
    const real loss = loss_of(head, scores, DIGITS, label);
    std::fill_n(grad, size, real(0));
    for (int k = 0; k < DIGITS; k++)
        for (int j = 0; j < size; j++)
            grad[j] -= 2 * head.scale * scores[k] * (states[j] - head.centres[k * size + j]);
    return loss;
}

// Backward and update of a dense layer: each row of the weights is used for the gradient of the
// inputs before it changes.
template <class U>
void dense_back(const real* in, const real* out_grad, int ins, int outs, const real* weight,
                real* weight_grad, real* bias_grad, real* in_grad, U update, int p) {
    std::fill_n(in_grad, whole(ins), real(0));
    for (int j = 0; j < outs; j++) {
        const real* row = weight + int64_t(j) * ins;
        real* __restrict grad = weight_grad + int64_t(j) * ins;
        const real g = out_grad[j];
        for (int i = 0; i < ins; i++) in_grad[i] += g * row[i];
        for (int i = 0; i < ins; i++) grad[i] = g * in[i];
        update(p, int64_t(j) * ins, int64_t(j + 1) * ins);
    }
    std::copy_n(out_grad, outs, bias_grad);
    update(p + 1, 0, outs);
}

// Forward, loss, backward and update for one image. `update(p, begin, end)` changes these elements
// of parameter p, whose gradient is known. Returns the loss.
template <class A, class P, class U>
real step_on_one(const Net& net, const Head& head, Pairs pairs, A f, P pooling,
                 const real* image, int64_t label, real* const* parameters, real* const* grads,
                 real* memory, real* output, U update) {
    const Planes at(net);
    std::fill_n(memory, at.size, real(0));  // what pads the planes is read, and never written
    real *const c1 = memory + at.c1, *const s2 = memory + at.s2, *const c3 = memory + at.c3,
         *const s4 = memory + at.s4, *const s4_grad = memory + at.s4_grad,
         *const s2_grad = memory + at.s2_grad, *const c1_grad = memory + at.c1_grad,
         *const hidden = memory + at.hidden;
    real* padded_image = memory + at.image;
    for (int y = 0; y < 32; y++) std::copy_n(image + 32 * y, 32, padded_image + y * IMAGE_STRIDE);
    const real* weight2 = parameters[WEIGHT2];
    if (pairs.count) {
        for (int k = 0; k < pairs.count; k++)
            std::copy_n(weight2 + k * TAPS, TAPS,
                        memory + at.weight2 + (pairs.out[k] * 6 + pairs.in[k]) * TAPS);
        weight2 = memory + at.weight2;
    }
    vec sums[4][16] = {};  // the poolings' gradients, in the order of their parameters
    const Trained trained1{parameters[COEFFICIENT1], parameters[SHIFT1], sums[0], sums[1]};
    const Trained trained2{parameters[COEFFICIENT2], parameters[SHIFT2], sums[2], sums[3]};

    convolve<C1, C1_STRIDE, 6, IMAGE_STRIDE, C1_STRIDE>(padded_image, parameters[WEIGHT1],
                                                        parameters[BIAS1], c1);
    squash_and_pool<6, 28, C1_STRIDE, S2_STRIDE>(c1, f, pooling, trained1, s2);
    convolve<C3, C3_STRIDE, 8, S2_STRIDE, C3_STRIDE>(s2, weight2, parameters[BIAS2], c3);
    squash_and_pool<16, 10, C3_STRIDE, S4_STRIDE>(c3, f, pooling, trained2, s4);
    for (int row = 0; row < 16 * 5; row++)
        std::copy_n(s4 + row * S4_STRIDE, 5, hidden + 5 * row);

    real* in = hidden;
    for (int l = 0; l < net.layers; l++) {
        const int ins = net.units[l], outs = net.units[l + 1];
        real* out = in + whole(ins);
        for (int j = 0; j < outs; j++)
            out[j] = parameters[DENSE + 2 * l + 1][j] +
                     dot(parameters[DENSE + 2 * l] + int64_t(j) * ins, in, ins);
        if (l < net.activated)
            for (int j = 0; j < outs; j += LANES) store(out + j, f.of(load(out + j)));
        in = out;
    }
    real *grad = memory + at.grad, *next_grad = memory + at.next_grad;
    const real loss = score(head, in, net.units[net.layers], label, output, grad);

    for (int l = net.layers - 1; l >= 0; l--) {
        const int ins = net.units[l], outs = net.units[l + 1], weight = DENSE + 2 * l;
        if (l < net.activated)
            for (int j = 0; j < outs; j += LANES)
                store(grad + j, load(grad + j) * f.derivative(load(in + j)));
        in -= whole(ins);
        dense_back(in, grad, ins, outs, parameters[weight], grads[weight], grads[weight + 1],
                   next_grad, update, weight);
        std::swap(grad, next_grad);
    }
    for (int row = 0; row < 16 * 5; row++)
        std::copy_n(grad + 5 * row, 5, s4_grad + row * S4_STRIDE);

    real *bordered = memory + at.c3_grad, *turned = memory + at.turned;
    real* c3_grad = bordered + BORDER * C3_GRAD_STRIDE + BORDER;
    unpool_and_unsquash<16, 10, C3_STRIDE, S4_STRIDE>(c3, s4, s4_grad, f, pooling, trained2,
                                                      c3_grad, C3_GRAD_MAP, C3_GRAD_STRIDE);
    // Backward through a convolution is a convolution with each kernel turned around.
    for (int m = 0; m < 16; m++)
        for (int c = 0; c < 6; c++)
            std::reverse_copy(weight2 + (m * 6 + c) * TAPS, weight2 + (m * 6 + c + 1) * TAPS,
                              turned + (c * 16 + m) * TAPS);
    const real zeros[6] = {};
    convolve<Convolution<16, 6, 14, 6, 14>, whole(14), 6, C3_GRAD_STRIDE, S2_STRIDE>(
        bordered, turned, zeros, s2_grad);
    unpool_and_unsquash<6, 28, C1_STRIDE, S2_STRIDE>(c1, s2, s2_grad, f, pooling, trained1,
                                                     c1_grad, 28 * C1_STRIDE, C1_STRIDE);

    real* weight2_grad = pairs.count ? memory + at.weight2_grad : grads[WEIGHT2];
    weight_grads<C3, C3_STRIDE, 4, S2_STRIDE, C3_GRAD_STRIDE>(s2, c3_grad, C3_GRAD_MAP,
                                                              weight2_grad, grads[BIAS2]);
    for (int k = 0; k < pairs.count; k++)
        std::copy_n(weight2_grad + (pairs.out[k] * 6 + pairs.in[k]) * TAPS, TAPS,
                    grads[WEIGHT2] + k * TAPS);
    weight_grads<C1, C1_STRIDE, 3, IMAGE_STRIDE, C1_STRIDE>(padded_image, c1_grad, 28 * C1_STRIDE,
                                                            grads[WEIGHT1], grads[BIAS1]);
    for (int q = 0; q < DENSE; q++) {
        if (!grads[q]) continue;
        if (q >= COEFFICIENT1)
            for (int m = 0; m < CONV_SIZES[q]; m++)
                grads[q][m] = sum_of_lanes(sums[q - COEFFICIENT1][m]);
        const bool some = q == WEIGHT2 && pairs.count;
        update(q, 0, some ? pairs.count * TAPS : CONV_SIZES[q]);
    }
    return loss;
}
