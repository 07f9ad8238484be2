// cam_pool, every thread on the host, against loops over the definition in double precision.
#include "cuda_on_host.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cam/kernels.cuh"
#include "check.h"

using namespace torchext;

enum class Kind { kRandom, kZero, kConstant, kNaN };

struct Shape {
  int64_t targets, batch, channels, from[kCamRank], to[kCamRank];
};

// A tensor (T, B, C, *S) in memory of its own, that ends with its last element.
template <class T>
struct Values {
  CamInput input;
  std::unique_ptr<T[]> memory;

  double at(int64_t target, int64_t sample, int64_t channel, int64_t position) const {
    int64_t offset = target * input.target_stride + sample * input.sample_stride + channel * input.channel_stride;
    for (int a = input.axes - 1; a >= 0; position /= input.axis[a--].size)
      offset += position % input.axis[a].size * input.axis[a].stride;
    return static_cast<double>(memory[static_cast<size_t>(offset)]);
  }
};

template <class T>
static Values<T> some_values(Random& random, const Shape& shape, int64_t targets, Kind kind, double mean) {
  Values<T> values;
  CamInput& input = values.input;
  const bool merged = random.flip();  // positions are one axis, as the launcher makes them where it can
  input.axes = 0;
  input.positions = shape.from[0] * shape.from[1] * shape.from[2];
  if (merged && input.positions > 1) input.axis[input.axes++] = {input.positions, 0};
  for (int a = 0; a < kCamRank && !merged; ++a)
    if (shape.from[a] > 1) input.axis[input.axes++] = {shape.from[a], 0};
  const bool channels_last = random.flip();
  const int64_t gap = random.between(0, 2);
  int64_t stride = 1;
  if (channels_last) input.channel_stride = std::exchange(stride, stride * shape.channels + gap);
  for (int a = input.axes - 1; a >= 0; --a)
    input.axis[a].stride = std::exchange(stride, stride * input.axis[a].size + gap);
  if (!channels_last) input.channel_stride = std::exchange(stride, stride * shape.channels + gap);
  if (!channels_last) input.channel_stride = input.axes == 0 ? 1 : input.axis[0].size * input.axis[0].stride + gap;
  input.sample_stride = (channels_last && input.axes > 0 ? input.axis[0].size * input.axis[0].stride
                                                         : shape.channels * input.channel_stride) +
                        gap;
  input.by_channel = channels_last || input.axes == 0;
  input.target_stride = shape.batch * input.sample_stride + gap;
  const int64_t count = (targets - 1) * input.target_stride + (shape.batch - 1) * input.sample_stride +
                        (shape.channels - 1) * input.channel_stride + last_offset(input.axis, input.axes) + 1;
  values.memory.reset(new T[static_cast<size_t>(count)]);
  input.data = values.memory.get();
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < count; ++i) {
    const double value = kind == Kind::kZero ? 0 : kind == Kind::kConstant ? 1 : mean + normal(random.engine);
    values.memory[static_cast<size_t>(i)] = static_cast<T>(static_cast<Compute<T>>(value));
  }
  return values;
}

static double rounded_ratio(double numerator, double denominator) {
  return denominator == 0 ? 0 : numerator / denominator;
}

// The weight of one channel.
template <class T>
static double weight_of(CamMethod method, const Values<T>& activations, const Values<T>& gradients, int64_t target,
                        int64_t sample, int64_t channel) {
  const int64_t positions = gradients.input.positions;
  double gradient_sum = 0, activation_sum = 0, product_sum = 0, weight = 0;
  for (int64_t p = 0; p < positions; ++p) {
    const double gradient = gradients.at(target, sample, channel, p);
    gradient_sum += gradient;
    if (method == CamMethod::kGradCam) continue;
    activation_sum += activations.at(0, sample, channel, p);
    product_sum += gradient * activations.at(0, sample, channel, p);
  }
  if (method == CamMethod::kGradCam) return gradient_sum / static_cast<double>(positions);
  if (method == CamMethod::kXGradCam) return rounded_ratio(product_sum, activation_sum);
  for (int64_t p = 0; p < positions; ++p) {
    const double g = gradients.at(target, sample, channel, p);
    if (!(g <= 0)) weight += rounded_ratio(g * g, 2 * g * g + activation_sum * g * g * g) * g;
  }
  return weight;
}

// What one call has, beside its inputs: the given weights, and what comes out.
template <class C>
struct Results {
  std::vector<C> maps, weights;
};

// The map of one sample, before it is rectified and normalised.
template <class T>
static std::vector<double> raw_map(const CamTask& task, const Values<T>& activations, const Values<T>& gradients,
                                   int64_t target, int64_t sample) {
  const int64_t positions = activations.input.positions;
  std::vector<double> map(static_cast<size_t>(positions), 0.0);
  for (int64_t c = 0; c < task.channels; ++c) {
    double weight = 0;
    if (task.method == CamMethod::kGiven)
      weight = static_cast<double>(
          static_cast<const Compute<T>*>(task.given)[(target * task.batch + sample) * task.channels + c]);
    else if (!multiplies(task.method))
      weight = weight_of(task.method, activations, gradients, target, sample, c);
    for (int64_t p = 0; p < positions; ++p) {
      double factor = weight;
      if (multiplies(task.method)) factor = gradients.at(target, sample, c, p);
      if (task.method == CamMethod::kLayerCam && factor < 0) factor = 0;
      const double product = factor * activations.at(0, sample, c, p);
      map[static_cast<size_t>(p)] += task.method == CamMethod::kElementwise && product < 0 ? 0 : product;
    }
  }
  return map;
}

static void normalize_map(std::vector<double>& map, CamNormalize normalize) {
  if (normalize == CamNormalize::kNone) return;
  double low = map[0], high = map[0];
  for (double entry : map) {
    low = std::isnan(entry) || entry < low ? entry : low;
    high = std::isnan(entry) || entry > high ? entry : high;
  }
  for (double entry : map)
    if (std::isnan(entry)) low = high = entry;
  const bool stretch = normalize == CamNormalize::kMinMax;
  const double offset = stretch ? low : 0;
  const double span = stretch ? high - low : std::fmax(std::fabs(low), std::fabs(high)) + 0 * low;
  for (double& entry : map) entry = span == 0 ? 0 : (entry - offset) / span;
}

// As F.interpolate(align_corners=False) defines it, along one axis after the other.
static std::vector<double> resize_map(std::vector<double> map, const Shape& shape) {
  int64_t inner = shape.from[0] * shape.from[1] * shape.from[2], outer = 1;
  for (int a = 0; a < kCamRank; ++a) {
    const int64_t from = shape.from[a], to = shape.to[a];
    inner /= from;
    std::vector<double> next(static_cast<size_t>(outer * to * inner));
    for (int64_t o = 0; o < outer; ++o)
      for (int64_t x = 0; x < to; ++x)
        for (int64_t i = 0; i < inner; ++i) {
          const double source = std::fmax(
              0.0, (static_cast<double>(x) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5);
          const int64_t low = std::min(static_cast<int64_t>(source), from - 1), high = std::min(low + 1, from - 1);
          const double weight = source - static_cast<double>(low);
          const double* line = &map[static_cast<size_t>(o * from * inner + i)];
          next[static_cast<size_t>((o * to + x) * inner + i)] =
              low == high ? line[low * inner] : (1 - weight) * line[low * inner] + weight * line[high * inner];
        }
    map = next;
    outer *= to;
  }
  return map;
}

template <class T>
constexpr double kTolerance = sizeof(T) == 8   ? 1e-9
                              : sizeof(T) == 4 ? 2e-3
                                               : 2e-2;

template <class T, class Index>
static std::vector<unsigned char> run_case(CamTask task, Results<Compute<T>>& results,
                                           const cuda_on_host::Launcher& launch) {
  using C = Compute<T>;
  const int64_t matrices = task.targets * task.batch;
  std::vector<unsigned char> out(static_cast<size_t>(matrices * outputs_of(task)) * sizeof(T), 0xff);
  const CamScratch counts = scratch_of(task, sizeof(C));
  const int64_t count = counts.sums + counts.maps + counts.ranges;
  const std::unique_ptr<C[]> scratch(new C[static_cast<size_t>(count)]);
  const C nan = std::numeric_limits<C>::quiet_NaN();
  std::fill_n(scratch.get(), count, nan);
  const bool weighs = !multiplies(task.method) && task.method != CamMethod::kGiven;
  results.maps.assign(static_cast<size_t>(matrices * task.activations.positions), nan);
  results.weights.assign(static_cast<size_t>(weighs ? matrices * task.channels : 0), nan);
  task.out = out.data();
  task.maps = results.maps.data();
  task.weights = results.weights.data();
  CHECK(fits_32(task, sizeof(C)));
  launch.launches = 0;
  run_cam_pool<T, Index>(task, scratch.get(), launch);
  CHECK(launch.launches <= 3);
  return out;
}

template <class T>
static bool close(T value, double wanted, double scale) {
  const double got = static_cast<double>(value);
  if (std::isnan(wanted)) return std::isnan(got);
  return std::fabs(got - wanted) <= kTolerance<T> * (scale + std::fabs(wanted));
}

template <class T>
static void check(Random& random, const Shape& shape, CamMethod method, Kind kind,
                  const cuda_on_host::Launcher& launch) {
  // Sums of activations far from 0, where XGrad-CAM and Grad-CAM++ have poles.
  Values<T> activations = some_values<T>(random, shape, 1, kind, 3),
            gradients = some_values<T>(random, shape, shape.targets, kind, 0);
  if (method == CamMethod::kGradCam && random.between(0, 4) == 0) {  // one value a channel, expanded
    gradients.input.axes = 0;
    gradients.input.positions = 1;
  }
  std::vector<Compute<T>> given(static_cast<size_t>(shape.targets * shape.batch * shape.channels));
  for (auto& weight : given) weight = static_cast<Compute<T>>(kind == Kind::kZero ? 0 : random.between(-4, 4));
  CamTask task{};
  task.activations = activations.input;
  if (method != CamMethod::kGiven) task.gradients = gradients.input;
  task.given = given.data();
  task.method = method;
  task.targets = shape.targets;
  task.batch = shape.batch;
  task.channels = shape.channels;
  task.relu = random.flip();
  task.resizes = !std::equal(shape.from, shape.from + kCamRank, shape.to);
  task.normalize = static_cast<CamNormalize>(random.between(0, 2));
  std::copy(shape.from, shape.from + kCamRank, task.from);
  std::copy(shape.to, shape.to + kCamRank, task.to);
  const int64_t bad_sample = kind == Kind::kNaN ? random.between(0, shape.batch - 1) : -1;
  if (bad_sample >= 0)
    activations.memory[static_cast<size_t>(bad_sample * task.activations.sample_stride)] =
        static_cast<T>(std::numeric_limits<float>::quiet_NaN());
  this_case = "method " + std::to_string(static_cast<int>(method)) + ", " + std::to_string(shape.targets) + " x " +
              std::to_string(shape.batch) + " x " + std::to_string(shape.channels) + " x (" +
              std::to_string(shape.from[0]) + ", " + std::to_string(shape.from[1]) + ", " +
              std::to_string(shape.from[2]) + "), kind " + std::to_string(static_cast<int>(kind)) + ", normalize " +
              std::to_string(static_cast<int>(task.normalize)) + ", " + std::to_string(sizeof(T)) + " bytes";
  const auto check_results = [&](const Results<Compute<T>>& results, const std::vector<unsigned char>& out) {
    for (int64_t matrix = 0; matrix < shape.targets * shape.batch; ++matrix) {
      const int64_t target = matrix / shape.batch, sample = matrix % shape.batch;
      std::vector<double> expected = raw_map(task, activations, gradients, target, sample);
      const double size = std::sqrt(static_cast<double>(shape.channels)) * 8;
      for (int64_t p = 0; p < task.activations.positions; ++p)
        CHECK(close(results.maps[static_cast<size_t>(matrix * task.activations.positions + p)],
                    expected[static_cast<size_t>(p)], size));
      for (int64_t c = 0; c < task.channels && !results.weights.empty(); ++c)
        CHECK(close(results.weights[static_cast<size_t>(matrix * task.channels + c)],
                    weight_of(method, activations, gradients, target, sample, c), 1));
      // From the map that was found: two that differ in rounding alone may be divided by what rounding left.
      for (int64_t p = 0; p < task.activations.positions; ++p) {
        const double entry =
            static_cast<double>(results.maps[static_cast<size_t>(matrix * task.activations.positions + p)]);
        expected[static_cast<size_t>(p)] = task.relu && entry < 0 ? 0 : entry;
      }
      const double scale = task.normalize == CamNormalize::kNone ? size : 1;
      normalize_map(expected, task.normalize);
      expected = resize_map(expected, shape);
      for (int64_t o = 0; o < outputs_of(task); ++o) {
        T value;
        std::memcpy(&value, &out[static_cast<size_t>(matrix * outputs_of(task) + o) * sizeof(T)], sizeof(T));
        const double wanted = expected[static_cast<size_t>(o)];
        CHECK(close(value, wanted, scale));
        if (wanted == 0 && (kind == Kind::kZero || kind == Kind::kConstant)) CHECK(static_cast<double>(value) == 0);
      }
    }
  };
  Results<Compute<T>> results;
  const std::vector<unsigned char> out = run_case<T, int32_t>(task, results, launch);
  check_results(results, out);
  const std::vector<unsigned char> wide_out = run_case<T, int64_t>(task, results, launch);
  check_results(results, wide_out);
}

static Shape some_shape(Random& random, int64_t most_positions, int64_t most_channels) {
  Shape shape{random.flip() ? 1 : random.between(1, 6),
              random.between(1, 3),
              random.between(1, most_channels),
              {1, 1, 1},
              {1, 1, 1}};
  const int rank = static_cast<int>(random.between(1, 3));
  int64_t left = most_positions;
  for (int a = kCamRank - rank; a < kCamRank; ++a) {
    shape.from[a] = random.between(1, a == 2 ? left : std::max<int64_t>(1, std::min<int64_t>(left, 20)));
    left = std::max<int64_t>(1, left / shape.from[a]);
    shape.to[a] = shape.from[a];
  }
  if (random.flip())
    for (int a = kCamRank - rank; a < kCamRank; ++a) shape.to[a] = random.between(1, rank == 1 ? 700 : 24);
  return shape;
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  constexpr CamMethod kMethods[] = {CamMethod::kGradCam,  CamMethod::kPlusPlus, CamMethod::kXGradCam,
                                    CamMethod::kLayerCam, CamMethod::kHiResCam, CamMethod::kElementwise,
                                    CamMethod::kGiven};
  // A third of the pairs of method and kind for each seed.
  for (int i = 14 * static_cast<int>(seed % 3), end = i + 14; i < end; ++i) {
    const Kind kind = i % 6 < 3 ? Kind::kRandom : static_cast<Kind>(i % 3 + 1);
    const CamMethod method = kMethods[i % 7];
    const Shape shape = some_shape(random, i % 2 ? 80 : 600, i % 3 ? 40 : 200);
    check<float>(random, shape, method, kind, launch);
    check<double>(random, shape, method, kind, launch);
    check<c10::Half>(random, shape, method, kind, launch);
    check<c10::BFloat16>(random, shape, method, kind, launch);
  }
  // Larger than what shared memory keeps: the map is whole and its range comes in pieces.
  for (Kind kind : {Kind::kRandom, Kind::kConstant, Kind::kNaN}) {
    check<float>(random, {1, 2, 3, {1, 99, 91}, {1, 99, 91}}, CamMethod::kGradCam, kind, launch);
    check<double>(random, {2, 1, 5, {1, 70, 71}, {1, 30, 90}}, CamMethod::kXGradCam, kind, launch);
    check<float>(random, {2, 1, 3, {1, 99, 91}, {1, 99, 91}}, CamMethod::kElementwise, kind, launch);
  }
  // More weights than shared memory keeps.
  check<float>(random, {1, 1, kMostWeights + 77, {1, 97, 89}, {1, 97, 89}}, CamMethod::kGradCam, Kind::kRandom, launch);
  check<float>(random, {1, 1, 2 * kMostWeights + 77, {1, 2, 3}, {1, 2, 3}}, CamMethod::kGradCam, Kind::kRandom, launch);
  check<float>(random, {5, 1, kMostWeights, {1, 20, 10}, {1, 20, 10}}, CamMethod::kGradCam, Kind::kRandom, launch);
  check<float>(random, {5, 1, 900, {1, 70, 120}, {1, 70, 120}}, CamMethod::kPlusPlus, Kind::kRandom, launch);
  check<float>(random, {1, 2, 4200, {1, 1, 1}, {1, 1, 1}}, CamMethod::kGiven, Kind::kRandom, launch);
}
