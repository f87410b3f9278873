// LeNet-5 forward and backward, from 32x32 images to the last dense layer.
//
// Images go through the network in groups of LANES, one image in each lane:
//
//      images  (N, 32, 32)  ->  group 0: [32][32][lane] | group 1 | ...   the last one filled with 0
//      conv1, activation        C1 [6][28][28][lane]
//      pooling                  S2 [6][14][14][lane]
//      conv2, activation        C3 [16][10][10][lane]
//      pooling                  S4 [16][5][5][lane]  =  [400][lane]
//      dense, activation ...    [120][lane], [84][lane], [classes][lane]  ->  output (N, classes)
//
// A thread takes neighbouring groups and sums its own gradients. Then each thread sums a part of
// these over all threads, in their order, so the same number of threads gives the same bits.
#include "single.h"

template <class A, class P>
void forward_convolutions(const real* const* parameters, const Group& g, A f, P pooling) {
    const Trained trained1{parameters[COEFFICIENT1], parameters[SHIFT1], nullptr, nullptr};
    const Trained trained2{parameters[COEFFICIENT2], parameters[SHIFT2], nullptr, nullptr};
    for (int Y = 0; Y < 14; Y++) {
        for (int y : {2 * Y, 2 * Y + 1})
            convolve_row<C1>(g.image, parameters[WEIGHT1], parameters[BIAS1], y, g.c1);
        activate_and_pool<C1>(g.c1, f, pooling, trained1, Y, g.s2);
    }
    for (int Y = 0; Y < 5; Y++) {
        for (int y : {2 * Y, 2 * Y + 1})
            convolve_row<C3>(g.s2, parameters[WEIGHT2], parameters[BIAS2], y, g.c3);
        activate_and_pool<C3>(g.c3, f, pooling, trained2, Y, g.s4);
    }
}

// Returns the last layer's outputs.
template <class A>
const vec* forward_dense(const Net& net, const real* const* parameters, const Group& g, A f) {
    const vec* in = g.s4;
    vec* out = g.hidden;
    for (int l = 0; l < net.layers; l++) {
        const int ins = net.units[l], outs = net.units[l + 1];
        dense(in, parameters[DENSE + 2 * l], parameters[DENSE + 2 * l + 1], ins, outs, out);
        if (l < net.activated)
            for (int j = 0; j < outs; j++) out[j] = f.of(out[j]);
        in = out, out += outs;
    }
    return in;
}

template <class A, class P>
void backward_convolutions(const real* const* parameters, const Group& g, const Scratch& s,
                           const vec* s4_grad, A f, P pooling) {
    const Trained trained1 = s.pooling_sums(parameters, COEFFICIENT1);
    const Trained trained2 = s.pooling_sums(parameters, COEFFICIENT2);
    for (int Y = 0; Y < 5; Y++)
        unpool_and_deactivate<C3>(g.c3, g.s4, s4_grad, f, pooling, trained2, Y,
                                  s.c3_grad + 2 * Y * 10, 10 * 10, s.sums[BIAS2]);
    accumulate_weight_grad<C3, 10>(g.s2, s.c3_grad, 0, s.sums[WEIGHT2]);
    input_grad<C3>(s.c3_grad, parameters[WEIGHT2], s.s2_grad);
    for (int Y = 0; Y < 14; Y++) {
        unpool_and_deactivate<C1>(g.c1, g.s2, s.s2_grad, f, pooling, trained1, Y, s.c1_grad,
                                  2 * 28, s.sums[BIAS1]);
        accumulate_weight_grad<C1, 2>(g.image, s.c1_grad, 2 * Y, s.sums[WEIGHT1]);
    }
}

// From the gradient of the output (s.grad) to the gradient of S4, which it returns. The gradients
// of each layer's outputs go to out_rows, for the weights.
template <class A>
const vec* backward_dense(const Net& net, const real* const* parameters, const Group& g,
                          const Scratch& s, int64_t n, int64_t first, int count, A f,
                          real* out_rows) {
    const vec* out = g.hidden;
    for (int l = 0; l < net.layers; l++) out += net.units[l + 1];
    vec *grad = s.grad, *next = s.next_grad;
    for (int l = net.layers - 1; l >= 0; l--) {
        const int ins = net.units[l], outs = net.units[l + 1];
        out -= outs;
        if (l < net.activated)
            for (int j = 0; j < outs; j++) grad[j] *= f.derivative(out[j]);
        const int stride = padded(outs);
        to_rows(grad, stride, count, outs, out_rows + rows_offset(net, n, l, 1) + first * stride);
        dense_input_grad(grad, parameters[DENSE + 2 * l], ins, outs, next);
        std::swap(grad, next);
    }
    return grad;
}

// One group from its images (image by image) to the last layer's outputs, which it returns.
static const vec* forward_group(const Net& net, const real* const* parameters, const Group& g,
                                const real* images, int count) {
    const vec* out = nullptr;
    to_lanes(images, IMAGE, count, IMAGE, g.image);
    with_activation(net, [&](auto f) {
        with_pooling(net, [&](auto p) { forward_convolutions(parameters, g, f, p); });
        out = forward_dense(net, parameters, g, f);
    });
    return out;
}

// Writes the dense layers' inputs of one group, image by image, for `sum_up`.
static void keep_rows(const Net& net, const Group& g, int64_t n, int64_t first, int count,
                      real* in_rows) {
    const vec* in = g.s4;
    for (int l = 0; l < net.layers; l++) {
        const int units = net.units[l], stride = padded(units);
        real* to = in_rows + rows_offset(net, n, l, 0) + first * stride;
        to_rows(in, stride, count, units, to);
        for (int lane = 0; lane < count; lane++)
            std::fill_n(to + lane * stride + units, stride - units, real(0));
        in = l ? in + units : g.hidden;
    }
}

// Backward for one group, from the gradient of its outputs in s.grad to this thread's sums.
static void backward_group(const Net& net, const real* const* parameters, const Group& g,
                           const Scratch& s, int64_t n, int64_t first, int count, real* out_rows) {
    with_activation(net, [&](auto f) {
        const vec* s4_grad = backward_dense(net, parameters, g, s, n, first, count, f, out_rows);
        with_pooling(net, [&](auto p) {
            backward_convolutions(parameters, g, s, s4_grad, f, p);
        });
    });
}

// This thread's part of all gradients, summed over threads and images. `done(p, begin, end)` is
// called as soon as elements begin to end of parameter p have their gradient.
template <class F>
void sum_up(const Net& net, int64_t n, vec* scratch_at, const real* in_rows, const real* out_rows,
            real* const* grads, F done) {
    for (int p = 0; p < DENSE; p++) {
        const Share part(grads[p] ? CONV_SIZES[p] : 0);
        for (int64_t k = part.begin; k < part.end; k++) {
            vec sum = {};
            for (int t = 0; t < omp_get_num_threads(); t++)
                sum += Scratch(net, scratch_at + t * Scratch::size(net)).sums[p][k];
            grads[p][k] = sum_of_lanes(sum);
        }
        done(p, part.begin, part.end);
    }
    for (int l = 0; l < net.layers; l++) {
        const int ins = net.units[l], outs = net.units[l + 1], weight = DENSE + 2 * l;
        const Share part(outs);
        dense_weight_grad(in_rows + rows_offset(net, n, l, 0), out_rows + rows_offset(net, n, l, 1),
                          n, ins, outs, part.begin, part.end, grads[weight], grads[weight + 1]);
        done(weight, part.begin * ins, part.end * ins);
        done(weight + 1, part.begin, part.end);
    }
}

extern "C" {

// The memory that `lenet_forward` fills for backward (keep), or works in (not keep), in bytes.
int64_t lenet_saved_bytes(const Net* net, int64_t n, int threads, int keep) {
    const int64_t groups = keep ? groups_of(n) : threads;
    const int64_t rows = keep ? rows_offset(*net, n, net->layers, 0) : 0;
    return groups * Group::size(*net) * sizeof(vec) + rows * sizeof(real);
}

int64_t lenet_scratch_bytes(const Net* net, int64_t n, int threads) {
    return threads * Scratch::size(*net) * sizeof(vec) +
           rows_offset(*net, n, net->layers, 1) * sizeof(real);
}

// images (n, 32, 32) -> output (n, units of the last layer). `saved` is aligned to VECTOR_BYTES.
void lenet_forward(const Net* net_at, int64_t n, int threads, int keep, const real* images,
                   const real* const* parameters, void* saved, real* output) {
    const Net net = *net_at;
    const int outs = net.units[net.layers];
    vec* groups_at = static_cast<vec*>(saved);
    real* in_rows = reinterpret_cast<real*>(groups_at + groups_of(n) * Group::size(net));
#pragma omp parallel num_threads(threads)
    {
        const Share share(groups_of(n));
        for (int64_t i = share.begin; i < share.end; i++) {
            const Group g(groups_at + (keep ? i : omp_get_thread_num()) * Group::size(net));
            const int64_t first = i * LANES;
            const int count = std::min<int64_t>(LANES, n - first);
            const vec* out = forward_group(net, parameters, g, images + first * IMAGE, count);
            to_rows(out, outs, count, outs, output + first * outs);
            if (keep) keep_rows(net, g, n, first, count, in_rows);
        }
    }
}

// output_grad (n, units of the last layer) -> grads, an array for each parameter, in their order.
// The four of the pooling are null if it has no parameters.
void lenet_backward(const Net* net_at, int64_t n, int threads, const real* const* parameters,
                    const void* saved, const real* output_grad, void* scratch, real* const* grads) {
    const Net net = *net_at;
    const int outs = net.units[net.layers];
    vec* groups_at = static_cast<vec*>(const_cast<void*>(saved));
    const real* in_rows = reinterpret_cast<real*>(groups_at + groups_of(n) * Group::size(net));
    vec* scratch_at = static_cast<vec*>(scratch);
    real* out_rows = reinterpret_cast<real*>(scratch_at + threads * Scratch::size(net));
#pragma omp parallel num_threads(threads)
    {
        const Scratch s(net, scratch_at + omp_get_thread_num() * Scratch::size(net));
        s.clear();
        const Share share(groups_of(n));
        // From the last group to the first, because the caches still have the last one.
        for (int64_t i = share.end - 1; i >= share.begin; i--) {
            const Group g(groups_at + i * Group::size(net));
            const int64_t first = i * LANES;
            const int count = std::min<int64_t>(LANES, n - first);
            to_lanes(output_grad + first * outs, outs, count, outs, s.grad);
            backward_group(net, parameters, g, s, n, first, count, out_rows);
        }
#pragma omp barrier
        sum_up(net, n, scratch_at, in_rows, out_rows, grads, [](int, int64_t, int64_t) {});
    }
}

// The options of torch.optim.SGD. With `diagonal` only the learning rate counts, multiplied by each
// parameter's own scale.
struct Rule {
    real lr, momentum, dampening, weight_decay;
    int32_t nesterov, maximize, diagonal;
};

// Changes elements of parameter p. `states` are the momenta (null if momentum is 0), or the scales.
static auto update_by(const Rule& sgd, real* const* parameters, real* const* states,
                      real* const* grads) {
    return [=](int p, int64_t begin, int64_t end) {
        real* __restrict parameter = parameters[p];
        real* __restrict momentum = states ? states[p] : nullptr;
        const real* __restrict grad = grads[p];
        if (sgd.diagonal) {
            const real* __restrict scale = states[p];
            for (int64_t k = begin; k < end; k++) parameter[k] -= sgd.lr * scale[k] * grad[k];
            return;
        }
        const real sign = sgd.maximize ? -1 : 1;
        for (int64_t k = begin; k < end; k++) {
            real step = sign * grad[k] + sgd.weight_decay * parameter[k];
            if (momentum) {
                momentum[k] = sgd.momentum * momentum[k] + (1 - sgd.dampening) * step;
                step = sgd.nesterov ? step + sgd.momentum * momentum[k] : momentum[k];
            }
            parameter[k] -= sgd.lr * step;
        }
    };
}

// The memory that `lenet_step` works in, in bytes.
int64_t lenet_step_bytes(const Net* net, int64_t n, int threads) {
    return lenet_saved_bytes(net, n, threads, 0) + lenet_scratch_bytes(net, n, threads) +
           rows_offset(*net, n, net->layers, 0) * sizeof(real);
}

// A whole training step: forward, loss, backward, and the update of the parameters and their
// states. Each group goes backward right after forward, while the caches have all of it. Writes the
// outputs (n, classes) and each image's loss (n). Returns 0; or 1, with nothing changed, if a label
// is none of the classes.
int lenet_step(const Net* net_at, const Rule* rule, const Head* head_at, int64_t n, int threads,
               const real* images, const int64_t* labels, real* const* parameters,
               real* const* states, void* memory, real* const* grads, real* output, real* losses) {
    const Net net = *net_at;
    const Head head = *head_at;
    const int outs = net.units[net.layers];
    for (int64_t i = 0; i < n; i++)
        if (labels[i] < 0 || labels[i] >= outs) return 1;
    vec* groups_at = static_cast<vec*>(memory);
    vec* scratch_at = groups_at + threads * Group::size(net);
    real* in_rows = reinterpret_cast<real*>(scratch_at + threads * Scratch::size(net));
    real* out_rows = in_rows + rows_offset(net, n, net.layers, 0);

    const auto update = update_by(*rule, parameters, states, grads);
#pragma omp parallel num_threads(threads)
    {
        const Group g(groups_at + omp_get_thread_num() * Group::size(net));
        const Scratch s(net, scratch_at + omp_get_thread_num() * Scratch::size(net));
        s.clear();
        const Share share(groups_of(n));
        for (int64_t i = share.begin; i < share.end; i++) {
            const int64_t first = i * LANES;
            const int count = std::min<int64_t>(LANES, n - first);
            const vec* out = forward_group(net, parameters, g, images + first * IMAGE, count);
            to_rows(out, outs, count, outs, output + first * outs);
            keep_rows(net, g, n, first, count, in_rows);
            std::fill_n(s.grad, outs, vec{});
            for (int lane = 0; lane < count; lane++) {
                real row[MOST_CLASSES];
                std::copy_n(output + (first + lane) * outs, outs, row);
                losses[first + lane] = loss_of(head, row, outs, labels[first + lane]);
                for (int k = 0; k < outs; k++) s.grad[k][lane] = row[k] / n;
            }
            backward_group(net, parameters, g, s, n, first, count, out_rows);
        }
#pragma omp barrier
        sum_up(net, n, scratch_at, in_rows, out_rows, grads, update);
    }
    return 0;
}

// The memory that `lenet_step_on_one` works in, in bytes.
int64_t lenet_single_bytes(const Net* net) { return Planes(*net).size * sizeof(real); }

// `lenet_step` for one image. It also takes an RBF output, and a C3 with partial connections.
int lenet_step_on_one(const Net* net_at, const Rule* rule, const Head* head_at,
                      const int64_t* pairs_at, int connections, const real* image,
                      const int64_t* label, real* const* parameters, real* const* states,
                      void* memory, real* const* grads, real* output, real* loss) {
    const Net net = *net_at;
    const Head head = *head_at;
    const Pairs pairs{connections, pairs_at, pairs_at + connections};
    const int classes = head.distances ? DIGITS : net.units[net.layers];
    if (*label < 0 || *label >= classes) return 1;
    const auto update = update_by(*rule, parameters, states, grads);
    with_activation(net, [&](auto f) {
        with_pooling(net, [&](auto pooling) {
            *loss = step_on_one(net, head, pairs, f, pooling, image, *label, parameters, grads,
                                static_cast<real*>(memory), output, update);
        });
    });
    return 0;
}
}
