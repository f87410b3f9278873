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
// Each group has gradients of its own, which are then summed in the order of the groups. So the bits
// depend neither on the number of threads nor on who computed what.
#include <numeric>

#include "single.h"
#include "team.h"

template <class A, class P>
void forward_convolutions(const real* const* parameters, const Group& g, A f, P pooling) {
    const Trained trained1{parameters[COEFFICIENT1], parameters[SHIFT1], nullptr, nullptr};
    const Trained trained2{parameters[COEFFICIENT2], parameters[SHIFT2], nullptr, nullptr};
    vec rows[std::max(6 * 28, 16 * 10) * 2];  // two of each map
    for (int Y = 0; Y < 14; Y++) {
        for (int y : {2 * Y, 2 * Y + 1})
            convolve_row<C1>(g.image, parameters[WEIGHT1], parameters[BIAS1], y, rows);
        activate_and_pool<C1>(rows, f, pooling, trained1, Y, g.c1, g.s2);
    }
    for (int Y = 0; Y < 5; Y++) {
        for (int y : {2 * Y, 2 * Y + 1})
            convolve_row<C3>(g.s2, parameters[WEIGHT2], parameters[BIAS2], y, rows);
        activate_and_pool<C3>(rows, f, pooling, trained2, Y, g.c3, g.s4);
    }
}

// Returns the last layer's outputs.
template <class A>
const vec* forward_dense(const Net& net, const real* const* parameters, const Group& g, A f) {
    const vec* in = g.s4;
    vec* out = g.hidden;
    for (int l = 0; l < net.layers; l++) {
        const int ins = net.units[l], outs = net.units[l + 1];
        const real *weight = parameters[DENSE + 2 * l], *bias = parameters[DENSE + 2 * l + 1];
        if (l < net.activated)
            dense(in, weight, bias, ins, outs, [f](vec x) { return f.of(x); }, out);
        else dense(in, weight, bias, ins, outs, [](vec x) { return x; }, out);
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

// What the tasks of one call write, each to its own part. A call that computes only forward or only
// backward uses the half that it needs.
struct Shared {
    real *in_rows, *output;                   // forward
    real *out_rows, *sums, *grads, *losses;   // backward: the groups' sums, and those of all groups

    static int64_t forward_size(const Net& net, int64_t n, bool keep) {
        return n * net.units[net.layers] + (keep ? rows_offset(net, n, net.layers, 0) : 0);
    }
    static int64_t backward_size(const Net& net, int64_t n) {
        int64_t size = n + rows_offset(net, n, net.layers, 1) + groups_of(n) * SUMS;
        for_parameters(net, [&](int, int64_t, int64_t count) { size += count; });
        return size;
    }
    Shared(const Net& net, int64_t n, bool keep, real* forward, real* backward) {
        in_rows = forward;
        output = forward + forward_size(net, n, keep) - n * net.units[net.layers];
        out_rows = backward, sums = out_rows + rows_offset(net, n, net.layers, 1);
        grads = sums + groups_of(n) * SUMS, losses = backward + backward_size(net, n) - n;
    }
};

// One group of a call with n images.
struct Part {
    int64_t first;
    int count;
    Part(int64_t group, int64_t n) {
        first = group * LANES, count = std::min<int64_t>(LANES, n - first);
    }
};

// Backward for one group, from the gradient of its outputs in s.grad.
static void backward_group(const Net& net, const real* const* parameters, const Group& g,
                           const Scratch& s, int64_t n, int64_t group, const Shared& shared) {
    const Part part(group, n);
    s.clear();
    with_activation(net, [&](auto f) {
        const vec* s4_grad =
            backward_dense(net, parameters, g, s, n, part.first, part.count, f, shared.out_rows);
        with_pooling(net, [&](auto p) {
            backward_convolutions(parameters, g, s, s4_grad, f, p);
        });
    });
    for (int k = 0; k < SUMS; k++) shared.sums[group * SUMS + k] = sum_of_lanes(s.sums[0][k]);
}

// The gradients are summed over images in parts: those of the convolutions, then up to ROWS rows of
// a dense layer's weights.
constexpr int ROWS = 20;

static int64_t sum_parts(const Net& net) {
    int64_t parts = 1;
    for (int l = 1; l <= net.layers; l++) parts += (net.units[l] + ROWS - 1) / ROWS;
    return parts;
}

static void sum_part(const Net& net, int64_t n, int64_t part, const Shared& shared) {
    real* grads = shared.grads;
    if (part-- == 0) {
        real total[SUMS] = {};  // not summed in `grads`, where another thread may do the same
        for (int64_t group = 0; group < groups_of(n); group++)
            for (int k = 0; k < SUMS; k++) total[k] += shared.sums[group * SUMS + k];
        std::copy_n(total, SUMS, grads);
        return;
    }
    grads += SUMS;
    int l = 0;
    for (; part * ROWS >= net.units[l + 1]; l++) {
        part -= (net.units[l + 1] + ROWS - 1) / ROWS;
        grads += (net.units[l] + 1) * net.units[l + 1];
    }
    const int ins = net.units[l], outs = net.units[l + 1], row = part * ROWS;
    dense_weight_grad(shared.in_rows + rows_offset(net, n, l, 0),
                      shared.out_rows + rows_offset(net, n, l, 1), n, ins, outs, row,
                      std::min(row + ROWS, outs), grads, grads + ins * outs);
}

// Sums over all images, once the groups are done, into `grads`. Returns the bit of a late job.
static int64_t sum_up(const Net& net, int64_t n, int threads, const Shared& shared,
                      real* const* grads) {
    // A helper costs more than it saves on the sums of one group.
    const int helped = std::min<int64_t>(threads, groups_of(n));
    const int64_t late = team.run(sum_parts(net), helped,
                                  [=](int64_t part) { sum_part(net, n, part, shared); });
    for_parameters(net, [&](int p, int64_t offset, int64_t count) {
        if (grads[p]) std::copy_n(shared.grads + offset, count, grads[p]);
    });
    return late;
}

extern "C" {

// A bit for each job that a thread may still work at.
int64_t lenet_late_jobs() { return team.late_jobs(); }

// The memory that `lenet_forward` fills for backward (keep), or works in (not keep), in bytes.
int64_t lenet_saved_bytes(const Net* net, int64_t n, int keep) {
    return (keep ? groups_of(n) * Group::size(*net) * sizeof(vec) : 0) +
           Shared::forward_size(*net, n, keep) * sizeof(real);
}

int64_t lenet_scratch_bytes(const Net* net, int64_t n) {
    return Shared::backward_size(*net, n) * sizeof(real);
}

// images (n, 32, 32) -> output (n, units of the last layer). `saved` is aligned to VECTOR_BYTES.
// Returns a bit for each job that a thread still works at. Until it leaves it, see
// `lenet_late_jobs`, it reads what this function was given, and writes to `saved`.
int64_t lenet_forward(const Net* net_at, int64_t n, int threads, int keep, const real* images,
                      const real* const* parameters_at, void* saved, real* output) {
    const Net net = *net_at;
    const Parameters parameters(net, parameters_at);
    const int outs = net.units[net.layers];
    vec* groups_at = static_cast<vec*>(saved);
    const int64_t kept = keep ? groups_of(n) * Group::size(net) : 0;
    const Shared shared(net, n, keep, reinterpret_cast<real*>(groups_at + kept), nullptr);
    const int64_t late = team.run(groups_of(n), threads, [=](int64_t group) {
        const Group g(keep ? groups_at + group * Group::size(net) : own_memory(Group::size(net)));
        const Part part(group, n);
        const vec* out =
            forward_group(net, parameters.at, g, images + part.first * IMAGE, part.count);
        to_rows(out, outs, part.count, outs, shared.output + part.first * outs);
        if (keep) keep_rows(net, g, n, part.first, part.count, shared.in_rows);
    });
    std::copy_n(shared.output, n * outs, output);
    return late;
}

// output_grad (n, units of the last layer) -> grads, an array for each parameter, in their order.
// The four of the pooling are null if it has no parameters. Returns as lenet_forward.
int64_t lenet_backward(const Net* net_at, int64_t n, int threads, const real* const* parameters_at,
                       const void* saved, const real* output_grad, void* scratch,
                       real* const* grads) {
    const Net net = *net_at;
    const Parameters parameters(net, parameters_at);
    const int outs = net.units[net.layers];
    vec* groups_at = static_cast<vec*>(const_cast<void*>(saved));
    real* rows_at = reinterpret_cast<real*>(groups_at + groups_of(n) * Group::size(net));
    const Shared shared(net, n, true, rows_at, static_cast<real*>(scratch));
    const int64_t late = team.run(groups_of(n), threads, [=](int64_t group) {
        const Scratch s(net, own_memory(Scratch::size(net)));
        const Part part(group, n);
        to_lanes(output_grad + part.first * outs, outs, part.count, outs, s.grad);
        backward_group(net, parameters.at, Group(groups_at + group * Group::size(net)), s, n, group,
                       shared);
    });
    return late | sum_up(net, n, threads, shared, grads);
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
int64_t lenet_step_bytes(const Net* net, int64_t n) {
    return (Shared::forward_size(*net, n, true) + Shared::backward_size(*net, n)) * sizeof(real);
}

// A whole training step: forward, loss, backward, and the update of the parameters and their
// states. Each group goes backward right after forward, while the caches have all of it. Writes the
// outputs (n, classes) and the mean loss. Returns as lenet_forward; or -1, with nothing changed, if
// a label is none of the classes.
int64_t lenet_step(const Net* net_at, const Rule* rule, const Head* head_at, int64_t n, int threads,
                   const real* images, const int64_t* labels, real* const* parameters_at,
                   real* const* states, void* memory, real* const* grads, real* output,
                   real* loss) {
    const Net net = *net_at;
    const Head head = *head_at;
    const Parameters parameters(net, parameters_at);
    const int outs = net.units[net.layers];
    for (int64_t i = 0; i < n; i++)
        if (labels[i] < 0 || labels[i] >= outs) return -1;
    real* at = static_cast<real*>(memory);
    const Shared shared(net, n, true, at, at + Shared::forward_size(net, n, true));
    int64_t late = team.run(groups_of(n), threads, [=](int64_t group) {
        vec* own = own_memory(Group::size(net) + Scratch::size(net));
        const Group g(own);
        const Scratch s(net, own + Group::size(net));
        const Part part(group, n);
        const vec* out =
            forward_group(net, parameters.at, g, images + part.first * IMAGE, part.count);
        to_rows(out, outs, part.count, outs, shared.output + part.first * outs);
        keep_rows(net, g, n, part.first, part.count, shared.in_rows);
        std::fill_n(s.grad, outs, vec{});
        for (int lane = 0; lane < part.count; lane++) {
            const int64_t image = part.first + lane;
            real row[MOST_CLASSES];
            std::copy_n(shared.output + image * outs, outs, row);
            shared.losses[image] = loss_of(head, row, outs, labels[image]);
            for (int k = 0; k < outs; k++) s.grad[k][lane] = row[k] / n;
        }
        backward_group(net, parameters.at, g, s, n, group, shared);
    });
    std::copy_n(shared.output, n * outs, output);
    *loss = std::accumulate(shared.losses, shared.losses + n, 0.0) / n;
    late |= sum_up(net, n, threads, shared, grads);
    // Last: what a late thread writes from now on is computed with other parameters.
    const auto update = update_by(*rule, parameters_at, states, grads);
    for_parameters(net, [&](int p, int64_t, int64_t count) {
        if (grads[p]) update(p, 0, count);
    });
    return late;
}

// The memory that `lenet_step_on_one` works in, in bytes.
int64_t lenet_single_bytes(const Net* net) { return Planes(*net).size * sizeof(real); }

// `lenet_step` for one image, on one thread. It also takes an RBF output, and a C3 with partial
// connections.
int lenet_step_on_one(const Net* net_at, const Rule* rule, const Head* head_at,
                      const int64_t* pairs_at, int connections, const real* image,
                      const int64_t* label, real* const* parameters, real* const* states,
                      void* memory, real* const* grads, real* output, real* loss) {
    const Net net = *net_at;
    const Head head = *head_at;
    const Pairs pairs{connections, pairs_at, pairs_at + connections};
    const int classes = head.distances ? DIGITS : net.units[net.layers];
    if (*label < 0 || *label >= classes) return -1;
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
