// Distorted images: each pixel is read from a point that an affine map and a smooth field choose.
#include "team.h"

constexpr int64_t IMAGES = 32;  // of one task

// The sizes of a batch. `points` is 0 without a field. distort.py has the same structure.
struct Shape {
    int64_t images, maps, height, width, row_points, column_points;
};

// out = a @ b, VECTORS vectors of columns from x on. Shapes: (height, inner) @ (inner, width)
template <int VECTORS>
static void multiply_columns(const real* a, const real* b, int64_t height, int64_t inner,
                             int64_t width, int64_t x, real* out) {
    for (int64_t y = 0; y < height; y++) {
        vec sum[VECTORS] = {};
        for (int64_t i = 0; i < inner; i++) {
            const vec factor = broadcast(a[y * inner + i]);
            unroll<VECTORS>([&](auto v) { sum[v] += factor * load(b + i * width + x + v * LANES); });
        }
        unroll<VECTORS>([&](auto v) { store(out + y * width + x + v * LANES, sum[v]); });
    }
}

static void multiply(const real* a, const real* b, int64_t height, int64_t inner, int64_t width,
                     real* out) {
    int64_t x = 0;
    for (; x + 4 * LANES <= width; x += 4 * LANES)
        multiply_columns<4>(a, b, height, inner, width, x, out);
    for (; x + LANES <= width; x += LANES)
        multiply_columns<1>(a, b, height, inner, width, x, out);
    for (; x < width; x++)
        for (int64_t y = 0; y < height; y++) {
            real sum = 0;
            for (int64_t i = 0; i < inner; i++) sum += a[y * inner + i] * b[i * width + x];
            out[y * width + x] = sum;
        }
}

// Where each pixel is read: the index of the upper left of four in a map with a border of zeros, and
// how far the point is from it.
struct Places {
    int32_t* __restrict index;
    real *__restrict right, *__restrict down;
};

// From the inverse map (a, b, c, d, shift along x and y) and the field along x and y, in loops that
// compilers turn into vectors.
static void find_places(const Shape s, const real* map, const real* __restrict along_x,
                        const real* __restrict along_y, Places to) {
    const real a = map[0], b = map[1], c = map[2], d = map[3];
    const real centre_x = (s.width - 1) / real(2), centre_y = (s.height - 1) / real(2);
    const real most_x = s.width + 1, most_y = s.height + 1;
    const int32_t width = s.width, stride = s.width + 3;
    for (int32_t y = 0; y < s.height; y++) {
        const real down = y - centre_y - map[5];
        const real first_x = b * down + centre_x + 1, first_y = d * down + centre_y + 1;
        for (int32_t x = 0; x < width; x++) {
            const int32_t k = y * width + x;
            const real right = x - centre_x - map[4];
            real from_x = a * right + first_x + along_x[k], from_y = c * right + first_y + along_y[k];
            from_x = from_x > 0 ? from_x : 0, from_x = from_x < most_x ? from_x : most_x;
            from_y = from_y > 0 ? from_y : 0, from_y = from_y < most_y ? from_y : most_y;
            const int32_t left = from_x, above = from_y;
            to.index[k] = above * stride + left;
            to.right[k] = from_x - left, to.down[k] = from_y - above;
        }
    }
}

// Reads one map at these places, bilinearly. `framed` has room for the map with its border: one
// pixel before it and two after it.
static void resample(const Shape s, const real* map, const Places places, real* __restrict framed,
                     real* __restrict to) {
    const int64_t stride = s.width + 3;
    std::fill_n(framed, (s.height + 3) * stride, real(0));
    for (int64_t y = 0; y < s.height; y++)
        std::copy_n(map + y * s.width, s.width, framed + (y + 1) * stride + 1);
    for (int64_t k = 0; k < s.height * s.width; k++) {
        const real* at = framed + places.index[k];
        const real upper = at[0] + places.right[k] * (at[1] - at[0]);
        const real lower = at[stride] + places.right[k] * (at[stride + 1] - at[stride]);
        to[k] = upper + places.down[k] * (lower - upper);
    }
}

extern "C" {

// images, out (images, maps, height, width); affine (images, 6): a, b, c, d of the inverse map, the
// shift along x and y; noise (images, 2, row_points, column_points) in pixels; rows (height,
// row_points); columns (column_points, width). Returns as lenet_forward.
int64_t lenet_distort(const Shape* shape, int threads, const real* images, const real* affine,
                      const real* noise, const real* rows, const real* columns, real* out) {
    const Shape s = *shape;
    const int64_t pixels = s.height * s.width, points = s.row_points * s.column_points;
    return team.run((s.images + IMAGES - 1) / IMAGES, threads, [=](int64_t task) {
        const int64_t half_size = s.row_points * s.width;
        const int64_t size = 5 * pixels + half_size + (s.height + 3) * (s.width + 3);
        real* along_x = reinterpret_cast<real*>(own_memory(size / LANES + 1));
        real *along_y = along_x + pixels, *right = along_y + pixels, *down = right + pixels;
        real *half = down + pixels, *framed = half + half_size;
        const Places places{reinterpret_cast<int32_t*>(framed + size - 5 * pixels - half_size),
                            right, down};
        std::fill_n(along_x, 2 * pixels, real(0));
        for (int64_t n = task * IMAGES; n < std::min((task + 1) * IMAGES, s.images); n++) {
            for (int axis = 0; points && axis < 2; axis++) {
                const real* own = noise + (2 * n + axis) * points;
                multiply(own, columns, s.row_points, s.column_points, s.width, half);
                multiply(rows, half, s.height, s.row_points, s.width, along_x + axis * pixels);
            }
            find_places(s, affine + 6 * n, along_x, along_y, places);
            for (int64_t m = n * s.maps; m < (n + 1) * s.maps; m++)
                resample(s, images + m * pixels, places, framed, out + m * pixels);
        }
    });
}
}
