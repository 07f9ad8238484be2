// Cutting windows and joining them, every thread on the host, against loops over the definition.
#include "cuda_on_host.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include "check.h"
#include "windows/tiles_kernels.cuh"

using namespace torchext;

static std::string text(const Tiles& tiles) {
  std::string all = "mode " + std::to_string(static_cast<int>(tiles.mode));
  for (const TileAxis<int64_t>& a : tiles.axes)
    all += ", " + std::to_string(a.grid) + " windows of " + std::to_string(a.size) + " every " +
           std::to_string(a.stride) + " in [" + std::to_string(a.first) + ", " + std::to_string(a.last) +
           "], dilation " + std::to_string(a.dilation) + ", image " + std::to_string(a.image);
  return all;
}

static TileAxis<int64_t> some_axis(Random& random, int64_t most, PaddingMode mode) {
  TileAxis<int64_t> axis{};
  axis.image = random.between(2, most);
  axis.size = random.between(1, 5);
  axis.dilation = random.between(1, 3);
  axis.stride = random.between(1, 6);
  axis.grid = random.between(1, most / axis.stride + 1);
  axis.first = random.between(-4, 3);
  axis.last = axis.first + (axis.grid - 1) * axis.stride - random.between(0, 2);
  if (axis.grid == 1) axis.last = axis.first;
  // Beyond one period nothing is defined.
  if (mode != PaddingMode::kConstant && std::max(axis.before(), axis.after()) >= axis.image)
    return some_axis(random, most, mode);
  return axis;
}

static Tiles some_grid(Random& random, int rank, int64_t most) {
  Tiles tiles;
  tiles.mode = static_cast<PaddingMode>(random.between(0, 4));
  tiles.windows = 1;
  for (int a = 0; a < kSpatial; ++a) {
    tiles.axes[a] = a < kSpatial - rank ? TileAxis<int64_t>{1, 1, 1, 1, 1, 0, 0} : some_axis(random, most, tiles.mode);
    tiles.windows *= tiles.axes[a].grid;
  }
  return tiles;
}

static Tiles some_offsets(Random& random, int rank, int64_t most, int64_t samples, std::vector<int64_t>& offsets) {
  Tiles tiles;
  tiles.own_sample = random.flip();
  tiles.windows = random.between(0, 40);
  tiles.offset_columns = rank + tiles.own_sample;
  for (int a = 0; a < kSpatial; ++a) {
    const bool there = a >= kSpatial - rank;
    tiles.axes[a] = {there ? random.between(1, most) : 1, there ? random.between(1, 9) : 1, 1, 1, 1, 0, 0};
    if (there) tiles.column[a] = a - (kSpatial - rank) + tiles.own_sample;
  }
  for (int64_t w = 0; w < tiles.windows; ++w) {
    if (tiles.own_sample) offsets.push_back(random.between(-1, samples));
    for (int a = kSpatial - rank; a < kSpatial; ++a)
      offsets.push_back(random.between(0, 20) == 0 ? INT64_MAX : random.between(-6, tiles.axes[a].image + 2));
  }
  tiles.on_grid = false;
  tiles.offsets = offsets.data();
  return tiles;
}

// Calls body(sample, window of it or of all, tap, place) for each tap; place is -1 for the constant, else the pixel.
template <class Body>
static void each_tap(const Tiles& tiles, int64_t samples, const Body& body) {
  const int64_t outer = tiles.own_sample ? 1 : samples;
  for (int64_t n = 0; n < outer; ++n)
    for (int64_t w = 0; w < tiles.windows; ++w) {
      const TilePlace place = tile_place(tiles, n, samples, w);
      for (int64_t tap = 0; tap < tiles.taps(); ++tap) {
        int64_t rest = tap, at[kSpatial], pixel = 0;
        for (int a = kSpatial - 1; a >= 0; --a) {
          at[a] = rest % tiles.axes[a].size;
          rest /= tiles.axes[a].size;
        }
        for (int a = 0; a < kSpatial; ++a) {
          const TileAxis<int64_t>& axis = tiles.axes[a];
          const int64_t x = padding_source(tiles.mode, place.start[a] + at[a] * axis.dilation, axis.image);
          pixel = pixel < 0 || x < 0 || place.sample < 0 ? -1 : pixel * axis.image + x;
        }
        body(place.sample, n, w, tap, pixel);
      }
    }
}

static int64_t pixels_of(const Tiles& tiles) {
  return tiles.axes[0].image * tiles.axes[1].image * tiles.axes[2].image;
}

template <class Index>
static void check_cut(Random& random, const Tiles& tiles, int64_t samples, const cuda_on_host::Launcher& launch) {
  CutTask task{};
  task.tiles = tiles;
  task.samples = samples;
  task.outer = tiles.own_sample ? 1 : samples;
  task.channels = random.between(1, 6);
  task.element_size = static_cast<int>(random.one_of({1, 2, 4, 8, 16}));
  const size_t size = static_cast<size_t>(task.element_size);
  const int64_t pixels = pixels_of(tiles), taps = tiles.taps();
  const bool channels_last = random.flip();
  const int64_t step = channels_last ? task.channels : 1;
  task.channel_stride = channels_last ? 1 : pixels;
  task.sample_stride = pixels * task.channels;
  task.strides[2] = step;
  task.strides[1] = step * tiles.axes[2].image;
  task.strides[0] = task.strides[1] * tiles.axes[1].image;
  std::vector<unsigned char> image(static_cast<size_t>(samples * task.channels * pixels) * size);
  for (unsigned char& byte : image) byte = static_cast<unsigned char>(random.engine());
  for (char& byte : task.value) byte = static_cast<char>(random.engine());
  std::vector<unsigned char> out(static_cast<size_t>(task.outer * tiles.windows * task.channels * taps) * size + 1);
  task.image = image.data();
  task.out = out.data();
  CHECK(fits_32(task));
  launch.launches = 0;
  run_cut<Index>(task, launch);
  CHECK(launch.launches == (tiles.windows == 0 ? 0 : 1));
  each_tap(tiles, samples, [&](int64_t sample, int64_t n, int64_t w, int64_t tap, int64_t pixel) {
    for (int64_t c = 0; c < task.channels; ++c) {
      const unsigned char* expected = reinterpret_cast<unsigned char*>(task.value);
      if (pixel >= 0)
        expected =
            &image[size * static_cast<size_t>(sample * task.sample_stride + c * task.channel_stride + pixel * step)];
      const int64_t at = ((n * tiles.windows + w) * task.channels + c) * taps + tap;
      CHECK(std::memcmp(&out[static_cast<size_t>(at) * size], expected, size) == 0);
    }
  });
}

// Small whole numbers, whose sums and products are exact.
template <class T>
static T some_value(Random& random) {
  if constexpr (std::is_same_v<T, Complex<double>>)
    return {some_value<double>(random), some_value<double>(random)};
  else if constexpr (std::is_same_v<T, bool>)
    return random.between(0, 3) == 0;
  else if constexpr (std::is_integral_v<T>)
    return static_cast<T>(random.between(0, 90));
  else
    return static_cast<T>(static_cast<float>(random.between(-2, 2)));
}

template <class Type, class Index>
static void check_join(Random& random, const Tiles& tiles, int64_t samples, const cuda_on_host::Launcher& launch,
                       bool blends) {
  using Element = typename Type::Element;
  using Weight = typename Type::Weight;
  JoinTask task{};
  task.tiles = tiles;
  task.samples = samples;
  task.channels = random.between(1, 6);
  const int64_t taps = tiles.taps(), pixels = pixels_of(tiles), outer = tiles.own_sample ? 1 : samples;
  task.normalize = blends && random.flip();
  std::vector<Weight> weight;
  for (int64_t i = 0; i < taps; ++i) weight.push_back(static_cast<Weight>(1 << random.between(0, 2)));
  task.weight = blends && random.flip() ? weight.data() : nullptr;
  // (outer, windows, c, taps), or the channels last.
  const bool channels_last = random.flip();
  const int64_t step = channels_last ? task.channels : 1;
  task.channel_stride = channels_last ? 1 : taps;
  task.tap_strides[2] = step;
  task.tap_strides[1] = step * tiles.axes[2].size;
  task.tap_strides[0] = task.tap_strides[1] * tiles.axes[1].size;
  const int64_t window = taps * task.channels;
  task.window_strides[2] = window;
  task.window_strides[1] = window * tiles.axes[2].grid;
  task.window_strides[0] = task.window_strides[1] * tiles.axes[1].grid;
  task.sample_stride = tiles.own_sample ? 0 : window * tiles.windows;
  const int64_t count = outer * tiles.windows * window;
  const std::unique_ptr<Element[]> windows(new Element[static_cast<size_t>(count + 1)]);
  for (int64_t i = 0; i <= count; ++i) windows[static_cast<size_t>(i)] = some_value<Element>(random);
  const int64_t outputs = samples * task.channels * pixels;
  const std::unique_ptr<Element[]> out(new Element[static_cast<size_t>(outputs)]);
  task.windows = windows.get();
  task.out = out.get();
  CHECK(fits_32(task));
  const BinLayout layout(task);
  std::vector<Index> memory(static_cast<size_t>(layout.entries()), Index{0});
  const bool bins = !tiles.on_grid;
  const BinTask<Index> binned = bin_task<Index>(task, layout, bins ? memory.data() : nullptr);
  launch.launches = 0;
  if (bins) run_bins(binned, launch);
  for (int64_t bin = 0; bins && bin < layout.bins; ++bin)  // sums of small whole numbers do not tell their order
    for (Index i = binned.starts[bin] + 1; i < binned.starts[bin + 1]; ++i)
      CHECK(binned.entries[i - 1] < binned.entries[i]);
  run_join<Type>(task, binned, launch);
  CHECK(launch.launches == (bins && tiles.windows > 0 ? 5 : 1));

  std::vector<PlaceSums<Type>> sums(static_cast<size_t>(outputs));
  each_tap(tiles, samples, [&](int64_t sample, int64_t n, int64_t w, int64_t tap, int64_t pixel) {
    for (int64_t c = 0; pixel >= 0 && c < task.channels; ++c) {
      const int64_t at = (n * tiles.windows + w) * window + c * task.channel_stride + tap * step;
      sums[static_cast<size_t>((sample * task.channels + c) * pixels + pixel)].add(
          windows.get() + at, int64_t{0}, int64_t{1},
          task.weight == nullptr ? nullptr : &weight[static_cast<size_t>(tap)]);
    }
  });
  for (int64_t i = 0; i < outputs; ++i) {
    const Element expected = sums[static_cast<size_t>(i)].result(0, task.normalize);
    CHECK(std::memcmp(&out[static_cast<size_t>(i)], &expected, sizeof(Element)) == 0);
  }
}

template <class Type>
static void check_joins(Random& random, const Tiles& tiles, int64_t samples, const cuda_on_host::Launcher& launch,
                        bool blends) {
  check_join<Type, int32_t>(random, tiles, samples, launch, blends);
  check_join<Type, int64_t>(random, tiles, samples, launch, blends);
}

static void check_all(Random& random, const Tiles& tiles, int64_t samples, const cuda_on_host::Launcher& launch) {
  this_case = text(tiles);
  check_cut<int32_t>(random, tiles, samples, launch);
  check_cut<int64_t>(random, tiles, samples, launch);
  check_joins<FloatElements<float>>(random, tiles, samples, launch, true);
  check_joins<FloatElements<c10::Half>>(random, tiles, samples, launch, true);
  check_joins<ComplexElements<double>>(random, tiles, samples, launch, true);
  check_joins<IntegerElements<int16_t>>(random, tiles, samples, launch, true);
  check_joins<IntegerElements<uint64_t>>(random, tiles, samples, launch, true);
  check_joins<PlainElements<uint8_t>>(random, tiles, samples, launch, false);
  check_joins<PlainElements<bool>>(random, tiles, samples, launch, false);
}

// What a position's taps are, counted against the definition.
static void check_starts(Random& random) {
  for (int i = 0; i < 2000; ++i) {
    const TileAxis<int64_t> axis = some_axis(random, 40, PaddingMode::kConstant);
    this_case = "starts of " + std::to_string(axis.first) + " + " + std::to_string(axis.stride) + "g until " +
                std::to_string(axis.last);
    for (int64_t position = -9; position < axis.image + 9; ++position) {
      int64_t until = 0;
      for (int64_t g = 0; g < axis.grid; ++g) until += axis.start(g) <= position;
      CHECK(axis.windows_until(position) == until);
    }
  }
}

int main(int argc, char** argv) {
  const uint32_t seed = seed_of(argc, argv);
  Random random(seed);
  cuda_on_host::Launcher launch;
  launch.random.seed(seed);
  check_starts(random);
  for (int i = 0; i < 24; ++i) {
    const int rank = i % 3 + 1;
    const int64_t most = rank == 1 ? 200 : rank == 2 ? 24 : 8, samples = random.between(1, 3);
    launch.processors = random.one_of({1, 132});
    check_all(random, some_grid(random, rank, most), samples, launch);
    std::vector<int64_t> offsets;
    const Tiles anywhere = some_offsets(random, rank, rank == 2 ? 70 : most, samples, offsets);
    check_all(random, anywhere, samples, launch);
  }
}
