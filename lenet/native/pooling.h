// Activation and 2x2 pooling of a convolution's outputs, two rows at a time; forward and backward.
//
//      conv   [map][2 Y][2 X], [2 X + 1]      the four that become one
//             [map][2 Y + 1][2 X], [2 X + 1]
//      pooled [map][Y][X]
#pragma once
#include "activation.h"

// `down` pools four activations to one. `up` turns the gradient of that one into the gradients of
// the four (`grad`). `Trained` has the parameters of the paper's subsampling; the other two
// poolings ignore it.
struct Trained {
    const real *coefficient, *bias;       // one of each for a map
    vec *coefficient_grad, *bias_grad;    // added to, lane by lane
};

struct Average {
    template <class A>
    vec down(const vec (&four)[4], A, const Trained&, int) const {
        return real(0.25) * ((four[0] + four[1]) + (four[2] + four[3]));
    }
    template <class A>
    void up(const vec (&)[4], vec, vec one_grad, A, const Trained&, int, vec (&grad)[4]) const {
        for (int i = 0; i < 4; i++) grad[i] = real(0.25) * one_grad;
    }
};

struct Maximum {
    template <class A>
    vec down(const vec (&four)[4], A, const Trained&, int) const {
        vec largest = four[0];
        // NaN counts as the largest, as in PyTorch: a diverged run must not look like a good one.
        for (int i = 1; i < 4; i++)
            largest = ((four[i] > largest) | (four[i] != four[i])) ? four[i] : largest;
        return largest;
    }
    template <class A>
    void up(const vec (&four)[4], vec one, vec one_grad, A, const Trained&, int,
            vec (&grad)[4]) const {
        vec rest = one_grad;  // goes to the first that is the maximum
        for (int i = 0; i < 4; i++) {
            grad[i] = four[i] == one ? rest : vec{};
            rest = four[i] == one ? vec{} : rest;
        }
    }
};

// f(coefficient * sum of the four + bias), f the activation (LeCun et al. 1998, section II.B).
struct Subsample {
    template <class A>
    vec down(const vec (&four)[4], A f, const Trained& t, int map) const {
        return f.of(t.coefficient[map] * ((four[0] + four[1]) + (four[2] + four[3])) + t.bias[map]);
    }
    template <class A>
    void up(const vec (&four)[4], vec one, vec one_grad, A f, const Trained& t, int map,
            vec (&grad)[4]) const {
        const vec inner = one_grad * f.derivative(one);
        t.coefficient_grad[map] += inner * ((four[0] + four[1]) + (four[2] + four[3]));
        t.bias_grad[map] += inner;
        for (int i = 0; i < 4; i++) grad[i] = t.coefficient[map] * inner;
    }
};

// conv = f(rows), and pooled = the pooling of it, for one row Y of the pooled maps. `rows` has the two
// rows of each map. Nothing is written twice: another thread may compute the same.
template <class C, class A, class P>
void activate_and_pool(const vec* rows, A f, P pooling, const Trained& trained, int Y, vec* conv,
                       vec* pooled) {
    constexpr int SIDE = C::side, HALF = SIDE / 2;
    for (int m = 0; m < C::maps_out; m++) {
        const vec *upper = rows + m * 2 * SIDE, *lower = upper + SIDE;
        vec *above = conv + (m * SIDE + 2 * Y) * SIDE, *below = above + SIDE;
        for (int X = 0; X < HALF; X++) {
            const vec four[4] = {f.of(upper[2 * X]), f.of(upper[2 * X + 1]),
                                 f.of(lower[2 * X]), f.of(lower[2 * X + 1])};
            above[2 * X] = four[0], above[2 * X + 1] = four[1];
            below[2 * X] = four[2], below[2 * X + 1] = four[3];
            pooled[(m * HALF + Y) * HALF + X] = pooling.down(four, f, trained, m);
        }
    }
}

// Backward for one row Y: conv_grad is the gradient before the activation. Its maps are
// `map_stride` vectors apart and begin with row 2 Y. bias_grad is added to, lane by lane.
template <class C, class A, class P>
void unpool_and_deactivate(const vec* conv, const vec* pooled, const vec* pooled_grad, A f,
                           P pooling, const Trained& trained, int Y, vec* conv_grad,
                           int map_stride, vec* bias_grad) {
    constexpr int SIDE = C::side, HALF = SIDE / 2;
    for (int m = 0; m < C::maps_out; m++) {
        const vec *above = conv + (m * SIDE + 2 * Y) * SIDE, *below = above + SIDE;
        vec *grad_above = conv_grad + m * map_stride, *grad_below = grad_above + SIDE;
        vec sum = {};
        for (int X = 0; X < HALF; X++) {
            const int one = (m * HALF + Y) * HALF + X;
            const vec four[4] = {above[2 * X], above[2 * X + 1], below[2 * X], below[2 * X + 1]};
            vec grad[4];
            pooling.up(four, pooled[one], pooled_grad[one], f, trained, m, grad);
            for (int i = 0; i < 4; i++) grad[i] *= f.derivative(four[i]);
            grad_above[2 * X] = grad[0], grad_above[2 * X + 1] = grad[1];
            grad_below[2 * X] = grad[2], grad_below[2 * X + 1] = grad[3];
            sum += (grad[0] + grad[1]) + (grad[2] + grad[3]);
        }
        bias_grad[m] += sum;
    }
}
