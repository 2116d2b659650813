// Multi-scale deformable attention on CPUs: forward and backward. See ops/cpu.py, which compiles this file, and
// ops/__init__.py for what is computed. No library but OpenMP, and that only where the compiler has it.
//
// B images, S tokens, H heads, D channels of a head, Q queries, L levels, P points. All arrays are contiguous:
// value (B, S, H, D), shapes (L, 2) as (h, w), locations (B, Q, H, L, P, 2), weights (B, Q, H, L, P), output (B, Q, H, D).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr int64_t QUERIES_A_TASK = 64;

struct Sizes {
  int64_t images, tokens, heads, channels, queries, levels, points;
  int64_t row() const { return heads * channels; }     // elements from one token to the next
  int64_t samples() const { return levels * points; }  // of one query and head
};

// A vector register's worth of numbers, at any address. GCC and clang split it where registers are shorter.
template <typename T>
struct Lanes {
  static constexpr int64_t COUNT = 64 / sizeof(T);
  typedef T Vec __attribute__((vector_size(64), aligned(sizeof(T)), may_alias));
  typedef T Four __attribute__((vector_size(4 * sizeof(T)), aligned(sizeof(T)), may_alias));
};
template <typename T>
const typename Lanes<T>::Vec& lanes(const T* p) { return *reinterpret_cast<const typename Lanes<T>::Vec*>(p); }
template <typename T>
typename Lanes<T>::Vec& lanes(T* p) { return *reinterpret_cast<typename Lanes<T>::Vec*>(p); }

// What the samples of every query share: the level of each, as width, height and first token.
template <typename T>
struct Levels {
  std::vector<T> width, height;
  std::vector<int32_t> start;
  Levels(const int64_t* shapes, const Sizes& n) {
    int32_t first = 0;
    for (int64_t level = 0; level < n.levels; ++level) {
      const int64_t h = shapes[2 * level], w = shapes[2 * level + 1];
      width.insert(width.end(), n.points, T(w));
      height.insert(height.end(), n.points, T(h));
      start.insert(start.end(), n.points, first);
      first += int32_t(h * w);
    }
  }
};

// Where the samples of one query and head lie. Corner c of sample i is at [c][i]: its token, -1 outside the level;
// columns c & 1 and lines c >> 1 count by column[c & 1][i] · line[c >> 1][i]. These are NaN where the place is infinite
// or no number: what is multiplied by them must not look like an answer.
template <typename T>
struct Samples {
  std::vector<int32_t> memory;
  std::vector<T> shares;
  int32_t* token[4];
  T *column[2], *line[2];

  explicit Samples(int64_t count) : memory(4 * count), shares(4 * count) {
    for (int c = 0; c < 4; ++c) token[c] = memory.data() + c * count;
    for (int c = 0; c < 2; ++c) column[c] = shares.data() + c * count, line[c] = shares.data() + (2 + c) * count;
  }

  // Written so that a compiler can do a vector's worth of samples at once: no branches, arrays by component.
  void locate(const T* __restrict locations, const Levels<T>& levels, int64_t count) {
    const T *__restrict width = levels.width.data(), *__restrict height = levels.height.data();
    const int32_t* __restrict start = levels.start.data();
    int32_t *__restrict t0 = token[0], *__restrict t1 = token[1], *__restrict t2 = token[2], *__restrict t3 = token[3];
    T *__restrict left = column[0], *__restrict right = column[1], *__restrict top = line[0], *__restrict bottom = line[1];
    for (int64_t i = 0; i < count; ++i) {
      T x = locations[2 * i] * width[i] - T(0.5), y = locations[2 * i + 1] * height[i] - T(0.5);
      const T no_column = locations[2 * i] * 0, no_line = locations[2 * i + 1] * 0;  // 0, or NaN
      // Two cells outside is as good as far outside or not a number, and can be cast.
      x = (x >= -1) & (x <= width[i]) ? x : T(-2);
      y = (y >= -1) & (y <= height[i]) ? y : T(-2);
      const T x_floor = std::floor(x), y_floor = std::floor(y);
      const int32_t c = int32_t(x_floor), l = int32_t(y_floor), w = int32_t(width[i]), h = int32_t(height[i]);
      right[i] = x - x_floor + no_column;
      left[i] = 1 - right[i];
      bottom[i] = y - y_floor + no_line;
      top[i] = 1 - bottom[i];
      const bool in_left = (c >= 0) & (c < w), in_right = (c >= -1) & (c + 1 < w);
      const bool in_top = (l >= 0) & (l < h), in_bottom = (l >= -1) & (l + 1 < h);
      const int32_t first = start[i] + l * w + c;
      t0[i] = in_left & in_top ? first : -1;
      t1[i] = in_right & in_top ? first + 1 : -1;
      t2[i] = in_left & in_bottom ? first + w : -1;
      t3[i] = in_right & in_bottom ? first + w + 1 : -1;
    }
  }

  T share(int corner, int64_t i) const { return column[corner & 1][i] * line[corner >> 1][i]; }
};

// The sum over all samples of a strip of channels, VECS vectors wide. Outside a level are zeros: of another cell, which
// may be infinite, even a share of 0 would count; and a weight that is no number counts outside, too.
template <typename T, int VECS>
void sum_strip(const T* value, int64_t row, const int32_t* const token[4], const T* const weight[4], int64_t count, T* out) {
  typedef typename Lanes<T>::Vec Vec;
  static const T nothing[VECS * Lanes<T>::COUNT] = {};
  Vec total[VECS] = {};
  for (int64_t i = 0; i < count; ++i) {
    const T* v[4];
    for (int c = 0; c < 4; ++c) v[c] = token[c][i] < 0 ? nothing : value + int64_t(token[c][i]) * row;
    const T a = weight[0][i], b = weight[1][i], c = weight[2][i], d = weight[3][i];
    for (int k = 0; k < VECS; ++k) {
      const int64_t at = k * Lanes<T>::COUNT;
      total[k] += (lanes(v[0] + at) * a + lanes(v[1] + at) * b) + (lanes(v[2] + at) * c + lanes(v[3] + at) * d);
    }
  }
  for (int k = 0; k < VECS; ++k) lanes(out + k * Lanes<T>::COUNT) = total[k];
}

template <typename T>
void weighted_sum(const T* value, const Sizes& n, const int32_t* const token[4], const T* const weight[4], T* out) {
  const int64_t lane = Lanes<T>::COUNT, count = n.samples();
  int64_t d = 0;
  for (; d + 2 * lane <= n.channels; d += 2 * lane) sum_strip<T, 2>(value + d, n.row(), token, weight, count, out + d);
  for (; d + lane <= n.channels; d += lane) sum_strip<T, 1>(value + d, n.row(), token, weight, count, out + d);
  for (; d < n.channels; ++d) {
    T total = 0;
    for (int c = 0; c < 4; ++c)
      for (int64_t i = 0; i < count; ++i)
        total += (token[c][i] < 0 ? T(0) : value[int64_t(token[c][i]) * n.row() + d]) * weight[c][i];
    out[d] = total;
  }
}

template <typename T>
void forward(const T* value, const int64_t* shapes, const T* locations, const T* weights, T* output, Sizes n, int threads) {
  const int64_t tasks_an_image = (n.queries + QUERIES_A_TASK - 1) / QUERIES_A_TASK;
  const Levels<T> levels(shapes, n);
#pragma omp parallel num_threads(threads)
  {
    const int64_t count = n.samples();
    Samples<T> samples(count);
    std::vector<T> room(4 * count);
    T* const weight[4] = {room.data(), room.data() + count, room.data() + 2 * count, room.data() + 3 * count};
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < n.images * tasks_an_image; ++task) {
      const int64_t image = task / tasks_an_image, first = task % tasks_an_image * QUERIES_A_TASK;
      const int64_t last = std::min(first + QUERIES_A_TASK, n.queries);
      const int64_t begin = (image * n.queries + first) * n.heads, end = (image * n.queries + last) * n.heads;
      for (int64_t at = begin; at < end; ++at) {  // a query and a head
        samples.locate(locations + at * count * 2, levels, count);
        for (int c = 0; c < 4; ++c)
          for (int64_t i = 0; i < count; ++i) weight[c][i] = weights[at * count + i] * samples.share(c, i);
        const T* maps = value + image * n.tokens * n.row() + at % n.heads * n.channels;
        weighted_sum(maps, n, samples.token, weight, output + at * n.channels);
      }
    }
  }
}

// Four numbers whose sum is <gradient, value> of one cell; and the cell's own gradient grows by share · gradient.
template <typename T>
typename Lanes<T>::Four dot_and_add(const T* gradient, const T* value, T* grad_value, T share, int64_t channels) {
  typedef typename Lanes<T>::Vec Vec;
  typedef typename Lanes<T>::Four Four;
  const int64_t lane = Lanes<T>::COUNT;
  Vec sums = {};
  int64_t d = 0;
  for (; d + lane <= channels; d += lane) {
    const Vec g = lanes(gradient + d);
    sums += g * lanes(value + d);
    lanes(grad_value + d) += g * share;
  }
  Four four = {};
  for (; d < channels; ++d) {
    four[0] += gradient[d] * value[d];
    grad_value[d] += gradient[d] * share;
  }
  const Four* quarters = reinterpret_cast<const Four*>(&sums);
  for (int64_t k = 0; k < lane / 4; ++k) four += quarters[k];
  return four;
}

// <gradient, 0>: 0, or NaN where the gradient is infinite or no number.
template <typename T>
T times_zero(const T* gradient, int64_t channels) {
  T total = 0;
  for (int64_t d = 0; d < channels; ++d) total += gradient[d] * 0;
  return total;
}

template <typename Four>
auto sum(const Four& x) { return (x[0] + x[1]) + (x[2] + x[3]); }

template <typename T>
struct Gradients {
  T *value, *locations, *weights;
};

// One task is one head of one image: no two tasks write to the same place, so sums have one order, whatever the threads.
template <typename T>
void backward(const T* grad_output, const T* value, const int64_t* shapes, const T* locations, const T* weights,
              Gradients<T> grad, Sizes n, int threads) {
  const Levels<T> levels(shapes, n);
#pragma omp parallel num_threads(threads)
  {
    const int64_t count = n.samples(), row = n.row();
    Samples<T> samples(count);
#pragma omp for schedule(dynamic, 1)
    for (int64_t task = 0; task < n.images * n.heads; ++task) {
      const int64_t image = task / n.heads, head = task % n.heads;
      const int64_t maps = image * n.tokens * row + head * n.channels;
      for (int64_t query = 0; query < n.queries; ++query) {
        const int64_t at = (image * n.queries + query) * n.heads + head;
        samples.locate(locations + at * count * 2, levels, count);
        const T outside = times_zero(grad_output + at * n.channels, n.channels);
        for (int64_t i = 0; i < count; ++i) {
          const T attention = weights[at * count + i];
          typename Lanes<T>::Four dot[4] = {};
          for (int c = 0; c < 4; ++c) {
            dot[c][0] = outside;
            if (samples.token[c][i] < 0) continue;
            const int64_t cell = maps + samples.token[c][i] * row;
            dot[c] = dot_and_add(grad_output + at * n.channels, value + cell, grad.value + cell,
                                 attention * samples.share(c, i), n.channels);
          }
          const T left = samples.column[0][i], right = samples.column[1][i];
          const T top = samples.line[0][i], bottom = samples.line[1][i];
          T* location = grad.locations + (at * count + i) * 2;
          location[0] = attention * levels.width[i] * sum(top * (dot[1] - dot[0]) + bottom * (dot[3] - dot[2]));
          location[1] = attention * levels.height[i] * sum(left * (dot[2] - dot[0]) + right * (dot[3] - dot[1]));
          grad.weights[at * count + i] =
              sum(top * (left * dot[0] + right * dot[1]) + bottom * (left * dot[2] + right * dot[3]));
        }
      }
    }
  }
}

}  // namespace

// grad_value must be zero at the start; the other outputs are overwritten.
#define DEFINE(T, SUFFIX)                                                                                              \
  extern "C" void forward_##SUFFIX(const Sizes* sizes, const int64_t* shapes, int threads, const T* value,            \
                                   const T* locations, const T* weights, T* output) {                                 \
    forward<T>(value, shapes, locations, weights, output, *sizes, threads);                                           \
  }                                                                                                                    \
  extern "C" void backward_##SUFFIX(const Sizes* sizes, const int64_t* shapes, int threads, const T* grad_output,     \
                                    const T* value, const T* locations, const T* weights, T* grad_value,              \
                                    T* grad_locations, T* grad_weights) {                                             \
    backward<T>(grad_output, value, shapes, locations, weights, {grad_value, grad_locations, grad_weights}, *sizes,   \
                threads);                                                                                              \
  }
DEFINE(float, float32)
DEFINE(double, float64)
