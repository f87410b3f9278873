// The three loops of a 5x5 convolution: its outputs, the gradient of its weights, and the gradient
// of its inputs. Weights have PyTorch's layout, [maps out][maps in][5][5]. Everything else is in
// planes of vectors, [map][row][column][lane], one image in each lane.
#pragma once
#include "vector.h"

constexpr int KERNEL = 5, TAPS = KERNEL * KERNEL;

// The shape of one convolution. Accumulators for MAPS x PIXELS outputs are held in registers.
template <int MAPS_IN, int MAPS_OUT, int SIDE_OUT, int BLOCK_MAPS, int BLOCK_PIXELS>
struct Convolution {
    static constexpr int maps_in = MAPS_IN, maps_out = MAPS_OUT, side = SIDE_OUT;
    static constexpr int side_in = SIDE_OUT + KERNEL - 1;
    static constexpr int block_maps = BLOCK_MAPS, block_pixels = BLOCK_PIXELS;
    static_assert(MAPS_OUT % BLOCK_MAPS == 0 && SIDE_OUT % BLOCK_PIXELS == 0);
};

// out[m][y % 2][x] = bias[m] + sum over c, ky, kx of in[c][y + ky][x + kx] * weight[m][c][ky][kx],
// for one row y of all maps.
template <class C>
void convolve_row(const vec* in, const real* weight, const real* bias, int y, vec* out) {
    constexpr int PIXELS = C::block_pixels, MAPS = C::block_maps, IN = C::side_in;
    for (int m = 0; m < C::maps_out; m += MAPS)
        for (int x = 0; x < C::side; x += PIXELS) {
            vec sum[MAPS][PIXELS];
            unroll<MAPS>([&](auto i) {
                unroll<PIXELS>([&](auto p) { sum[i][p] = broadcast(bias[m + i]); });
            });
            for (int c = 0; c < C::maps_in; c++)
                for (int ky = 0; ky < KERNEL; ky++) {
                    const vec* row = in + (c * IN + y + ky) * IN + x;
                    const real* taps = weight + (m * C::maps_in + c) * TAPS + ky * KERNEL;
                    unroll<KERNEL>([&](auto kx) {
                        unroll<MAPS>([&](auto i) {
                            const vec tap = broadcast(taps[i * C::maps_in * TAPS + kx]);
                            unroll<PIXELS>([&](auto p) { sum[i][p] += row[p + kx] * tap; });
                        });
                    });
                }
            unroll<MAPS>([&](auto i) {
                unroll<PIXELS>([&](auto p) {
                    out[((m + i) * 2 + y % 2) * C::side + x + p] = sum[i][p];
                });
            });
        }
}

// weight_grad[m][c][ky][kx] += sum over y, x of out_grad[m][y][x] * in[c][y + ky][x + kx],
// lane by lane, for ROWS rows of outputs from row y on. out_grad holds only these rows.
template <class C, int ROWS, int MAPS = 2>
void accumulate_weight_grad(const vec* in, const vec* out_grad, int y, vec* weight_grad) {
    constexpr int IN = C::side_in, SIDE = C::side;
    static_assert(C::maps_out % MAPS == 0);
    for (int m = 0; m < C::maps_out; m += MAPS)
        for (int c = 0; c < C::maps_in; c++)
            for (int ky = 0; ky < KERNEL; ky++) {
                vec* taps = weight_grad + (m * C::maps_in + c) * TAPS + ky * KERNEL;
                vec sum[MAPS][KERNEL];
                unroll<MAPS>([&](auto i) {
                    unroll<KERNEL>([&](auto kx) { sum[i][kx] = taps[i * C::maps_in * TAPS + kx]; });
                });
                for (int r = 0; r < ROWS; r++) {
                    const vec* row = in + (c * IN + y + r + ky) * IN;
                    const vec* grad = out_grad + (m * ROWS + r) * SIDE;
                    for (int x = 0; x < SIDE; x++)
                        unroll<MAPS>([&](auto i) {
                            const vec g = grad[i * ROWS * SIDE + x];
                            unroll<KERNEL>([&](auto kx) { sum[i][kx] += g * row[x + kx]; });
                        });
                }
                unroll<MAPS>([&](auto i) {
                    unroll<KERNEL>([&](auto kx) { taps[i * C::maps_in * TAPS + kx] = sum[i][kx]; });
                });
            }
}

// in_grad[c][Y][X] = sum over m, ky, kx of out_grad[m][Y - ky][X - kx] * weight[m][c][ky][kx], over
// the outputs that exist. WIDTH columns from X0 on of one row are held in registers.
template <class C, int X0, int WIDTH>
void input_grad_columns(const vec* out_grad, const real* weight, int c, int Y, vec* in_grad) {
    constexpr int SIDE = C::side;
    vec sum[WIDTH] = {};
    const int first = Y < SIDE ? 0 : Y - SIDE + 1, last = Y < KERNEL ? Y : KERNEL - 1;
    for (int m = 0; m < C::maps_out; m++)
        for (int ky = first; ky <= last; ky++) {
            const vec* grad = out_grad + (m * SIDE + Y - ky) * SIDE;
            const real* taps = weight + (m * C::maps_in + c) * TAPS + ky * KERNEL;
            unroll<KERNEL>([&](auto kx) {
                const vec tap = broadcast(taps[kx]);
                unroll<WIDTH>([&](auto j) {
                    constexpr int x = X0 + j - kx;
                    if constexpr (x >= 0 && x < SIDE) sum[j] += grad[x] * tap;
                });
            });
        }
    unroll<WIDTH>([&](auto j) { in_grad[(c * C::side_in + Y) * C::side_in + X0 + j] = sum[j]; });
}

template <class C>
void input_grad(const vec* out_grad, const real* weight, vec* in_grad) {
    constexpr int IN = C::side_in, HALF = IN / 2;
    for (int Y = 0; Y < IN; Y++)
        for (int c = 0; c < C::maps_in; c++) {
            if constexpr (REGISTERS >= 32) {
                input_grad_columns<C, 0, IN>(out_grad, weight, c, Y, in_grad);
            } else {
                input_grad_columns<C, 0, HALF>(out_grad, weight, c, Y, in_grad);
                input_grad_columns<C, HALF, IN - HALF>(out_grad, weight, c, Y, in_grad);
            }
        }
}
