// patchify and unpatchify, every thread on the host, against a loop over the definition.
#include "cuda_on_host.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "check.h"
#include "windows/patchify_kernels.cuh"

using namespace torchext;
using torch::headeronly::ScalarType;

static PatchTask some_task(Random& random, bool many_channels) {
  PatchTask task{};
  task.batch = random.between(1, 3);
  task.channels = many_channels ? random.one_of({17, 64, 65, 150}) : random.one_of({1, 2, 3, 3, 4, 16});
  for (int a = 0; a < 2; ++a) {
    task.grid[a] = random.between(1, 4);
    task.size[a] = random.one_of({1, 2, 3, 4, 7, 8, 16});
  }
  return task;
}

static std::string text(const PatchTask& task) {
  const auto pair = [](const int64_t (&two)[2]) { return std::to_string(two[0]) + "x" + std::to_string(two[1]); };
  return std::to_string(task.batch) + " images, " + std::to_string(task.channels) + " channels, grid " +
         pair(task.grid) + ", patches " + pair(task.size) + ", dtypes " +
         std::to_string(static_cast<int>(task.in_type)) + " to " + std::to_string(static_cast<int>(task.out_type));
}

struct Axes {
  int64_t sizes[kPatchAxes];

  explicit Axes(const PatchTask& task)
      : sizes{task.batch, task.grid[0], task.grid[1], task.size[0], task.size[1], task.channels} {}
};

static int64_t* stride_at(PatchStrides& strides, int axis) {
  int64_t* all[kPatchAxes] = {&strides.sample,    &strides.grid[0],   &strides.grid[1],
                              &strides.inside[0], &strides.inside[1], &strides.channel};
  return all[axis];
}

// The axes from the outermost to the innermost, of row-major images and tokens and of any tensor.
static std::vector<int> some_order(Random& random, bool any) {
  static const std::vector<std::vector<int>> kLayouts = {
      {0, 1, 2, 5, 3, 4}, {0, 1, 2, 3, 4, 5}, {0, 5, 1, 3, 2, 4}, {0, 1, 3, 2, 4, 5}};
  std::vector<int> order = kLayouts[static_cast<size_t>(random.between(0, 3))];
  if (any && random.flip()) std::shuffle(order.begin(), order.end(), random.engine);
  return order;
}

// Returns how many elements they span.
static int64_t lay_out(PatchStrides& strides, const Axes& axes, const std::vector<int>& order, Random* gaps) {
  int64_t stride = 1, span = 1;
  for (size_t i = order.size(); i-- > 0;) {
    const int64_t size = axes.sizes[order[i]];
    const bool expanded = gaps != nullptr && gaps->between(0, 9) == 0;
    *stride_at(strides, order[i]) = expanded ? 0 : stride;
    if (expanded) continue;
    span += (size - 1) * stride;
    stride = stride * size + (gaps != nullptr ? gaps->between(0, 2) : 0);
  }
  return span;
}

static int64_t offset_of(PatchStrides strides, const int64_t (&at)[kPatchAxes]) {
  int64_t offset = 0;
  for (int a = 0; a < kPatchAxes; ++a) offset += at[a] * *stride_at(strides, a);
  return offset;
}

template <class T>
static T some_pixel(Random& random) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(random.engine());
  else
    return static_cast<T>(static_cast<float>(random.between(-600, 600)) / 2);
}

template <class Out, class C>
static Out expected_of(C value) {
  if constexpr (std::is_integral_v<Out>) {
    const double low = static_cast<double>(std::numeric_limits<Out>::min());
    const double high = static_cast<double>(std::numeric_limits<Out>::max());
    return static_cast<Out>(std::clamp(std::nearbyint(static_cast<double>(value)), low, high));
  } else {
    return static_cast<Out>(value);
  }
}

// In and Out are what is in memory; the kernel may know them only when it is launched.
template <class In, class Out, class KernelIn, class KernelOut, class Index>
static void check(Random& random, ScalarType in_type, ScalarType out_type, const cuda_on_host::Launcher& launch) {
  using C = PixelCompute<KernelIn, KernelOut>;
  const bool many_channels = random.between(0, 5) == 0;
  PatchTask task = some_task(random, many_channels);
  task.in_type = in_type;
  task.out_type = out_type;
  const Axes axes(task);
  const int64_t span = lay_out(task.from, axes, some_order(random, true), random.flip() ? &random : nullptr);
  const int64_t count = lay_out(task.to, axes, some_order(random, false), nullptr);
  this_case = text(task);
  CHECK(count == pixel_count(task));
  CHECK(fits_32(task));

  const std::unique_ptr<In[]> in(new In[static_cast<size_t>(span)]);
  for (int64_t i = 0; i < span; ++i) in[static_cast<size_t>(i)] = some_pixel<In>(random);
  // As aligned as an allocation is on a GPU, and ending where the output ends.
  const std::unique_ptr<Out[]> out(new Out[static_cast<size_t>(count)]);
  task.in = in.get();
  task.out = out.get();
  std::vector<double> factors(static_cast<size_t>(random.flip() ? 1 : task.channels));
  std::vector<double> offsets(static_cast<size_t>(random.flip() ? 1 : task.channels));
  for (double& factor : factors) factor = static_cast<double>(random.between(1, 8)) / 4;
  for (double& offset : offsets) offset = static_cast<double>(random.between(-8, 8)) / 4;
  task.factors = factors.data();
  task.offsets = offsets.data();
  task.factor_step = factors.size() > 1;
  task.offset_step = offsets.size() > 1;
  const bool many = has_many_channels(task);
  const std::unique_ptr<C[]> on_device(new C[static_cast<size_t>(2 * task.channels)]);
  launch.launches = 0;
  run_patches<KernelIn, KernelOut, Index>(task, on_device.get(), launch);
  CHECK(launch.launches == 1 + (many ? ceil_div(2 * task.channels, kCoefficientsAPart) : 0));

  int64_t at[kPatchAxes];
  for (int64_t i = 0; i < count; ++i) {
    int64_t rest = i;
    for (int a = kPatchAxes - 1; a >= 0; --a) {
      at[a] = rest % axes.sizes[a];
      rest /= axes.sizes[a];
    }
    const C pixel = static_cast<C>(in[static_cast<size_t>(offset_of(task.from, at))]);
    const C value = std::fma(pixel, static_cast<C>(task.factor(at[5])), static_cast<C>(task.offset(at[5])));
    const Out expected = expected_of<Out>(value);
    CHECK(std::memcmp(&out[static_cast<size_t>(offset_of(task.to, at))], &expected, sizeof(Out)) == 0);
  }
}

template <class In, class Out>
static void check_fast(Random& random, const cuda_on_host::Launcher& launch) {
  check<In, Out, In, Out, int32_t>(random, ScalarType::Undefined, ScalarType::Undefined, launch);
}

template <class In, class Out>
static void check_any(Random& random, ScalarType in, ScalarType out, const cuda_on_host::Launcher& launch) {
  check<In, Out, AnyNumber, AnyNumber, int64_t>(random, in, out, launch);
}

static void check_limits() {
  this_case = "limits";
  CHECK(number_from<uint8_t>(254.5f) == 254 && number_from<uint8_t>(255.5f) == 255 && number_from<uint8_t>(0.5f) == 0);
  CHECK(number_from<uint8_t>(INFINITY) == 255 && number_from<uint8_t>(-INFINITY) == 0 &&
        number_from<uint8_t>(NAN) == 0);
  CHECK(number_from<int8_t>(-128.5) == -128 && number_from<int8_t>(-1e9) == -128 && number_from<int8_t>(127.6) == 127);
  CHECK(number_from<int32_t>(-2147483648.0) == INT32_MIN && number_from<int32_t>(2147483648.0) == INT32_MAX);
  CHECK(number_from<uint32_t>(4294967295.4) == UINT32_MAX && number_from<uint32_t>(-0.4) == 0);
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  check_limits();
  for (int i = 0; i < 25; ++i) {
    launch.processors = random.one_of({1, 132});
    check_fast<uint8_t, float>(random, launch);
    check_fast<uint8_t, c10::BFloat16>(random, launch);
    check_fast<float, float>(random, launch);
    check_fast<float, uint8_t>(random, launch);
    check_fast<c10::Half, uint8_t>(random, launch);
    check_fast<float, c10::Half>(random, launch);
    check_any<double, double>(random, ScalarType::Double, ScalarType::Double, launch);
    check_any<uint8_t, float>(random, ScalarType::Byte, ScalarType::Float, launch);
    check_any<int64_t, float>(random, ScalarType::Long, ScalarType::Float, launch);
    check_any<int8_t, double>(random, ScalarType::Char, ScalarType::Double, launch);
    check_any<uint32_t, c10::Half>(random, ScalarType::UInt32, ScalarType::Half, launch);
    check_any<double, int16_t>(random, ScalarType::Double, ScalarType::Short, launch);
    check_any<float, uint32_t>(random, ScalarType::Float, ScalarType::UInt32, launch);
    check_any<c10::BFloat16, int32_t>(random, ScalarType::BFloat16, ScalarType::Int, launch);
  }
}
