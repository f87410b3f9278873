// Activations of whole vectors, and their derivatives as functions of their own outputs.
#pragma once
#include "vector.h"

// tanh(x) = x P(x^2) / Q(x^2) to 3e-7 of its value, and 1 from |x| = 9 on, as float rounds it.
// The coefficients are a minimax fit made for this file (Lawson's algorithm on [0, 9]).
inline vec tanh_of(vec x) {
    constexpr real LIMIT = 9;
    // Comparisons with NaN are false, so NaN stays NaN.
    x = x > LIMIT ? broadcast(LIMIT) : x;
    x = x < -LIMIT ? broadcast(-LIMIT) : x;
    const vec s = x * x;
    const vec p = (((real(1.3319080949258932e-08) * s + real(2.058348763966933e-05)) * s +
                    real(0.0034940349869430065)) * s + real(0.13379718363285065)) * s + real(1);
    const vec q = (((real(7.762023415125441e-07) * s + real(0.0003283093392383307)) * s +
                    real(0.025871073827147484)) * s + real(0.4671303331851959)) * s + real(1);
    return x * p / q;
}

struct Tanh {
    vec of(vec x) const { return tanh_of(x); }
    vec derivative(vec y) const { return 1 - y * y; }
};

// amplitude tanh(slope x)
struct ScaledTanh {
    real amplitude, slope;
    vec of(vec x) const { return amplitude * tanh_of(slope * x); }
    vec derivative(vec y) const { return slope * (amplitude - y * y / amplitude); }
};

struct Sigmoid {
    vec of(vec x) const { return real(0.5) + real(0.5) * tanh_of(real(0.5) * x); }
    vec derivative(vec y) const { return y * (1 - y); }
};

struct Relu {
    vec of(vec x) const { return x < 0 ? vec{} : x; }
    vec derivative(vec y) const { return y > 0 ? vec{} + 1 : vec{}; }
};
