// unfold and fold, every thread on the host, against loops over the definition.
#include "cuda_on_host.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "check.h"
#include "windows/kernels.cuh"

using namespace torchext;

static std::string text(const int64_t (&sizes)[kSpatial]) {
  return std::to_string(sizes[0]) + "x" + std::to_string(sizes[1]) + "x" + std::to_string(sizes[2]);
}

static std::string text(const WindowGeometry<int64_t>& g) {
  return "image " + text(g.image) + ", kernel " + text(g.kernel) + ", dilation " + text(g.dilation) + ", padding " +
         text(g.padding) + ", stride " + text(g.stride);
}

static std::string text(const WindowGeometry<int64_t>& g, PaddingMode mode) {
  return text(g) + ", mode " + std::to_string(static_cast<int>(mode));
}

static WindowGeometry<int64_t> some_geometry(Random& random, int rank, int64_t most) {
  WindowGeometry<int64_t> g;
  for (int a = 0; a < kSpatial; ++a) {
    const bool there = a >= kSpatial - rank;
    do {
      g.kernel[a] = there ? random.between(1, 5) : 1;
      g.dilation[a] = there ? random.between(1, 4) : 1;
      g.padding[a] = there ? random.between(0, 4) : 0;
      g.stride[a] = there ? random.between(1, 6) : 1;
      g.image[a] = there ? random.between(1, most) : 1;
      g.grid[a] = grid_size(g.image[a], g.kernel[a], g.dilation[a], g.padding[a], g.stride[a]);
    } while (g.image[a] + 2 * g.padding[a] < g.dilation[a] * (g.kernel[a] - 1) + 1);
  }
  return g;
}

// A mode that allows the padding of a geometry.
static PaddingMode some_mode(Random& random, const WindowGeometry<int64_t>& g) {
  bool reflects = true, repeats = true;
  for (int a = 0; a < kSpatial; ++a) {
    reflects = reflects && g.padding[a] < g.image[a];
    repeats = repeats && g.padding[a] <= g.image[a];
  }
  if (random.flip()) return PaddingMode::kConstant;
  if (random.flip()) return reflects ? PaddingMode::kReflect : PaddingMode::kReplicate;
  if (!repeats) return PaddingMode::kReplicate;
  return random.flip() ? PaddingMode::kCircular : PaddingMode::kSymmetric;
}

// fold's runs hold exactly the pairs of tap and window that read a position.
static void check_runs(Random& random) {
  for (int i = 0; i < 3000; ++i) {
    WindowGeometry<int64_t> g = some_geometry(random, 1, 60);
    if (i % 4 == 0) g.kernel[2] = 1;
    g.grid[2] = grid_size(g.image[2], g.kernel[2], g.dilation[2], g.padding[2], g.stride[2]);
    this_case = text(g);
    const FoldAxis<int32_t> axis(g, 2);
    for (int32_t x = 0; x < g.image[2]; ++x) {
      TapRun<int32_t> run = axis.taps_at(x);
      int64_t window = run.window, tap = run.tap, pairs = 0;
      for (int64_t k = 0; k < g.kernel[2]; ++k) {
        const int64_t expected = window_of(g, 2, int64_t{x}, k);
        if (expected < 0) continue;
        CHECK(image_position(g, 2, expected, k) == x);
        CHECK(pairs < run.count && tap == k && window == expected);
        tap += axis.tap_step.divisor;
        window -= axis.window_step.divisor;
        ++pairs;
      }
      CHECK(pairs == run.count);
    }
  }
  for (int64_t m = 1; m < 60; ++m)
    for (int64_t a = 1; a < 100; ++a)
      if (std::gcd(a, m) == 1) CHECK(inverse_modulo(a, m) * a % m == 1 % m);
}

template <class Body>
static void each(const int64_t (&sizes)[kSpatial], const Body& body) {
  for (int64_t i = 0; i < sizes[0]; ++i)
    for (int64_t j = 0; j < sizes[1]; ++j)
      for (int64_t k = 0; k < sizes[2]; ++k) body((i * sizes[1] + j) * sizes[2] + k, {i, j, k});
}

using Place = int64_t[kSpatial];

// Calls body(tap, window, place) for every tap of every window; place is the pixel that it shows, -1 for none.
template <class Body>
static void each_tap(const WindowGeometry<int64_t>& g, PaddingMode mode, const Body& body) {
  each(g.kernel, [&](int64_t tap, const Place& k) {
    each(g.grid, [&](int64_t window, const Place& w) {
      int64_t pixel = 0;
      for (int a = 0; a < kSpatial; ++a) {
        const int64_t x = padding_source(mode, image_position(g, a, w[a], k[a]), g.image[a]);
        pixel = pixel < 0 || x < 0 ? -1 : pixel * g.image[a] + x;
      }
      body(tap, window, pixel);
    });
  });
}

// Random strides, with gaps, for axes of these sizes; returns how many elements they span.
static int64_t some_strides(Random& random, const std::vector<int64_t>& sizes, std::vector<int64_t*> strides) {
  std::vector<size_t> order(sizes.size());
  std::iota(order.rbegin(), order.rend(), size_t{0});
  const bool plain = random.flip();
  if (!plain) std::shuffle(order.begin(), order.end(), random.engine);
  int64_t stride = 1, span = 1;
  for (size_t a : order) {
    const bool expanded = !plain && random.between(0, 9) == 0;
    *strides[a] = expanded ? 0 : stride;
    span += (sizes[a] - 1) * *strides[a];
    if (!expanded) stride = stride * sizes[a] + (plain ? 0 : random.between(0, 2));
  }
  return span;
}

template <class Index>
static void check_unfold(Random& random, const WindowGeometry<int64_t>& g, PaddingMode mode,
                         const cuda_on_host::Launcher& launch) {
  UnfoldTask task{};
  task.windows = g;
  task.mode = mode;
  task.batch = random.between(1, 3);
  task.channels = random.between(1, 6);
  task.element_size = static_cast<int>(random.one_of({1, 2, 4, 8, 16}));
  const size_t size = static_cast<size_t>(task.element_size);
  const int64_t span =
      some_strides(random, {task.batch, task.channels, g.image[0], g.image[1], g.image[2]},
                   {&task.batch_stride, &task.channel_stride, &task.strides[0], &task.strides[1], &task.strides[2]});
  std::vector<unsigned char> image(static_cast<size_t>(span) * size);
  for (unsigned char& byte : image) byte = static_cast<unsigned char>(random.engine());
  for (char& byte : task.value) byte = static_cast<char>(random.engine());
  const int64_t taps = product(g.kernel), windows = product(g.grid), planes = task.batch * task.channels;
  std::vector<unsigned char> out(static_cast<size_t>(planes * taps * windows) * size, 0xa5);
  task.image = image.data();
  task.out = out.data();
  CHECK(fits_32(task));
  launch.launches = 0;
  run_unfold<Index>(task, launch);
  CHECK(launch.launches == 1);
  each_tap(g, mode, [&](int64_t tap, int64_t window, int64_t pixel) {
    for (int64_t plane = 0; plane < planes; ++plane) {
      const unsigned char* expected = reinterpret_cast<unsigned char*>(task.value);
      if (pixel >= 0)
        expected = &image[size * static_cast<size_t>(plane / task.channels * task.batch_stride +
                                                     plane % task.channels * task.channel_stride +
                                                     pixel / (g.image[1] * g.image[2]) * task.strides[0] +
                                                     pixel / g.image[2] % g.image[1] * task.strides[1] +
                                                     pixel % g.image[2] * task.strides[2])];
      CHECK(std::memcmp(&out[static_cast<size_t>((plane * taps + tap) * windows + window) * size], expected, size) ==
            0);
    }
  });
}

// Small whole numbers, whose sums are exact in every type.
template <class T>
static T some_value(Random& random) {
  if constexpr (std::is_same_v<T, Complex<float>> || std::is_same_v<T, Complex<double>>)
    return {some_value<decltype(T::real)>(random), some_value<decltype(T::real)>(random)};
  else if constexpr (std::is_same_v<T, bool>)
    return random.between(0, 3) == 0;
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(random.engine());
  else
    return static_cast<T>(static_cast<float>(random.between(-2, 2)));
}

template <class T, class Sum, class Index>
static void check_fold(Random& random, const WindowGeometry<int64_t>& g, PaddingMode mode,
                       const cuda_on_host::Launcher& launch) {
  FoldTask task{};
  task.windows = g;
  task.mode = mode;
  task.batch = random.between(1, 3);
  task.channels = random.between(1, 6);
  const int64_t taps = product(g.kernel), windows = product(g.grid), planes = task.batch * task.channels;
  const int64_t span = some_strides(random, {task.batch, task.channels * taps, windows},
                                    {&task.batch_stride, &task.tap_stride, &task.window_stride});
  task.channel_stride = task.tap_stride * taps;
  const std::unique_ptr<T[]> columns(new T[static_cast<size_t>(span)]);
  for (int64_t i = 0; i < span; ++i) columns[static_cast<size_t>(i)] = some_value<T>(random);
  const int64_t pixels = product(g.image);
  const std::unique_ptr<T[]> out(new T[static_cast<size_t>(planes * pixels)]);
  task.columns = columns.get();
  task.out = out.get();
  CHECK(fits_32(task));
  launch.launches = 0;
  run_fold<T, Sum, Index>(task, launch);
  CHECK(launch.launches == 1);
  const std::unique_ptr<Sum[]> sums(new Sum[static_cast<size_t>(planes * pixels)]());
  each_tap(g, mode, [&](int64_t tap, int64_t window, int64_t pixel) {
    for (int64_t plane = 0; pixel >= 0 && plane < planes; ++plane)
      sums[static_cast<size_t>(plane * pixels + pixel)] += static_cast<Sum>(columns[static_cast<size_t>(
          plane / task.channels * task.batch_stride + plane % task.channels * task.channel_stride +
          tap * task.tap_stride + window * task.window_stride)]);
  });
  for (int64_t i = 0; i < planes * pixels; ++i) {
    const T expected = static_cast<T>(sums[static_cast<size_t>(i)]);
    CHECK(std::memcmp(&out[static_cast<size_t>(i)], &expected, sizeof(T)) == 0);
  }
}

template <class T, class Sum>
static void check_fold_of(Random& random, const WindowGeometry<int64_t>& g, PaddingMode mode,
                          const cuda_on_host::Launcher& launch) {
  this_case = "fold of " + std::to_string(sizeof(T)) + " bytes, " + text(g, mode);
  check_fold<T, Sum, int32_t>(random, g, mode, launch);
  check_fold<T, Sum, int64_t>(random, g, mode, launch);
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  check_runs(random);
  for (int i = 0; i < 60; ++i) {
    const int rank = i % 3 + 1;
    const WindowGeometry<int64_t> g = some_geometry(random, rank, rank == 1 ? 300 : rank == 2 ? 24 : 9);
    launch.processors = random.one_of({1, 132});
    const PaddingMode mode = some_mode(random, g);
    this_case = "unfold, " + text(g, mode);
    check_unfold<int32_t>(random, g, mode, launch);
    check_unfold<int64_t>(random, g, mode, launch);
    check_fold_of<bool, bool>(random, g, mode, launch);
    check_fold_of<uint8_t, uint32_t>(random, g, mode, launch);
    check_fold_of<uint64_t, uint64_t>(random, g, mode, launch);
    check_fold_of<c10::Half, float>(random, g, mode, launch);
    check_fold_of<c10::BFloat16, float>(random, g, mode, launch);
    check_fold_of<double, double>(random, g, mode, launch);
    check_fold_of<Complex<float>, Complex<float>>(random, g, mode, launch);
  }
}
