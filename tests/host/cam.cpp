// cam_pool, every thread on the host, against loops over the definition in double precision.
#include "cuda_on_host.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "cam/kernels.cuh"
#include "check.h"

using namespace torchext;

enum class Kind { kRandom, kZero, kConstant, kNaN };

struct Shape {
  int64_t batch, channels, from[kCamRank], to[kCamRank];
};

// A tensor (B, C, *S) in memory of its own, that ends with its last element.
template <class T>
struct Values {
  CamInput input;
  std::unique_ptr<T[]> memory;

  double at(int64_t sample, int64_t channel, int64_t position) const {
    int64_t offset = sample * input.sample_stride + channel * input.channel_stride;
    for (int a = input.axes - 1; a >= 0; position /= input.axis[a--].size)
      offset += position % input.axis[a].size * input.axis[a].stride;
    return static_cast<double>(memory[static_cast<size_t>(offset)]);
  }
};

template <class T>
static Values<T> some_values(Random& random, const Shape& shape, Kind kind) {
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
  const int64_t count = (shape.batch - 1) * input.sample_stride + (shape.channels - 1) * input.channel_stride +
                        last_offset(input.axis, input.axes) + 1;
  values.memory.reset(new T[static_cast<size_t>(count)]);
  input.data = values.memory.get();
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < count; ++i) {
    const double value = kind == Kind::kZero ? 0 : kind == Kind::kConstant ? 1 : normal(random.engine);
    values.memory[static_cast<size_t>(i)] = static_cast<T>(static_cast<Compute<T>>(value));
  }
  return values;
}

// The map of one sample, before it is normalised.
template <class T>
static std::vector<double> raw_map(const Values<T>& activations, const Values<T>& gradients, const Shape& shape,
                                   int64_t sample, bool relu) {
  const int64_t positions = activations.input.positions;
  std::vector<double> map(static_cast<size_t>(positions), 0.0);
  for (int64_t c = 0; c < shape.channels; ++c) {
    double weight = 0;
    for (int64_t p = 0; p < gradients.input.positions; ++p) weight += gradients.at(sample, c, p);
    weight /= static_cast<double>(gradients.input.positions);
    for (int64_t p = 0; p < positions; ++p) map[static_cast<size_t>(p)] += weight * activations.at(sample, c, p);
  }
  for (double& entry : map) entry = relu && entry < 0 ? 0 : entry;
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
static std::vector<unsigned char> run_case(CamTask task, const cuda_on_host::Launcher& launch) {
  using C = Compute<T>;
  std::vector<unsigned char> out(static_cast<size_t>(task.batch * outputs_of(task)) * sizeof(T), 0xff);
  const CamScratch counts = scratch_of(task, sizeof(C));
  const std::unique_ptr<C[]> scratch(new C[static_cast<size_t>(counts.sums + counts.maps + counts.ranges)]);
  std::fill_n(scratch.get(), counts.sums + counts.maps + counts.ranges, std::numeric_limits<C>::quiet_NaN());
  task.out = out.data();
  CHECK(fits_32(task, sizeof(C)));
  launch.launches = 0;
  run_cam_pool<T, Index>(task, scratch.get(), launch);
  CHECK(launch.launches <= 3);
  return out;
}

template <class T>
static void check(Random& random, const Shape& shape, Kind kind, const cuda_on_host::Launcher& launch) {
  Values<T> activations = some_values<T>(random, shape, kind), gradients = some_values<T>(random, shape, kind);
  if (random.between(0, 4) == 0) {  // one value a channel, expanded
    gradients.input.axes = 0;
    gradients.input.positions = 1;
  }
  CamTask task;
  task.activations = activations.input;
  task.gradients = gradients.input;
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
  this_case = std::to_string(shape.batch) + " x " + std::to_string(shape.channels) + " x (" +
              std::to_string(shape.from[0]) + ", " + std::to_string(shape.from[1]) + ", " +
              std::to_string(shape.from[2]) + "), kind " + std::to_string(static_cast<int>(kind)) + ", normalize " +
              std::to_string(static_cast<int>(task.normalize)) + ", " + std::to_string(sizeof(T)) + " bytes";
  const std::vector<unsigned char> out = run_case<T, int32_t>(task, launch);
  CHECK((run_case<T, int64_t>(task, launch)) == out);
  for (int64_t sample = 0; sample < shape.batch; ++sample) {
    std::vector<double> expected = raw_map(activations, gradients, shape, sample, task.relu);
    const double scale = task.normalize == CamNormalize::kNone ? std::sqrt(static_cast<double>(shape.channels)) : 1;
    normalize_map(expected, task.normalize);
    expected = resize_map(expected, shape);
    for (int64_t o = 0; o < outputs_of(task); ++o) {
      T value;
      std::memcpy(&value, &out[static_cast<size_t>(sample * outputs_of(task) + o) * sizeof(T)], sizeof(T));
      const double got = static_cast<double>(value), wanted = expected[static_cast<size_t>(o)];
      if (std::isnan(wanted))
        CHECK(std::isnan(got));
      else if (wanted == 0 && kind != Kind::kRandom && kind != Kind::kNaN)
        CHECK(got == 0);
      else
        CHECK(std::fabs(got - wanted) <= kTolerance<T> * (scale + std::fabs(wanted)));
    }
  }
}

static Shape some_shape(Random& random, int64_t most_positions, int64_t most_channels) {
  Shape shape{random.between(1, 4), random.between(1, most_channels), {1, 1, 1}, {1, 1, 1}};
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
  for (int i = 0; i < 24; ++i) {
    const Kind kind = i % 6 < 3 ? Kind::kRandom : static_cast<Kind>(i % 3 + 1);
    const Shape shape = some_shape(random, i % 2 ? 80 : 600, i % 3 ? 40 : 200);
    check<float>(random, shape, kind, launch);
    check<double>(random, shape, kind, launch);
    check<c10::Half>(random, shape, kind, launch);
    check<c10::BFloat16>(random, shape, kind, launch);
  }
  // Larger than what shared memory keeps: the map is whole and its range comes in pieces.
  for (Kind kind : {Kind::kRandom, Kind::kConstant, Kind::kNaN}) {
    check<float>(random, {2, 3, {1, 99, 91}, {1, 99, 91}}, kind, launch);
    check<double>(random, {1, 5, {1, 70, 71}, {1, 30, 90}}, kind, launch);
  }
  // More weights than shared memory keeps.
  check<float>(random, {1, kMostWeights + 77, {1, 97, 89}, {1, 97, 89}}, Kind::kRandom, launch);
  check<float>(random, {1, 2 * kMostWeights + 77, {1, 2, 3}, {1, 2, 3}}, Kind::kRandom, launch);
  check<float>(random, {2, 4200, {1, 1, 1}, {1, 1, 1}}, Kind::kRandom, launch);
}
