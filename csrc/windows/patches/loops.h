#include "common/bits.h"
#include "common/isa.h"
#include "common/simd.h"
#include "common/transpose.h"
#include "windows/patches/task.h"

namespace torchext::TORCHEXT_ISA {

// The same as number_from for integers, compiled for the instruction set.
template <class T>
inline T rounded(double value) {
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  const double inside = value > kLow ? (value < kHigh ? value : kHigh) : value == value ? kLow : 0.0;
  return static_cast<T>(std::nearbyint(inside));
}

template <int Lanes, class T>
  requires(!std::is_same_v<T, uint8_t>)
inline Vec<float, Lanes> load_pixels(const T* from) {
  return load<Lanes>(from);
}

template <int Lanes>
inline Vec<float, Lanes> load_pixels(const uint8_t* from) {
  if constexpr (Lanes == 1) {
    return static_cast<float>(*from);
  } else {
    Vec<uint8_t, Lanes> bytes;
    std::memcpy(&bytes, from, sizeof bytes);
    // GCC 12 splits its own vector conversions into smaller ones.
#if defined(TORCHEXT_AVX512)
    if constexpr (Lanes == 16)
      return (Vec<float, 16>)_mm512_maskz_cvtepi32_ps(0xffff, _mm512_maskz_cvtepu8_epi32(0xffff, (__m128i)bytes));
#endif
#if defined(TORCHEXT_AVX2)
    if constexpr (Lanes == 8)
      return (Vec<float, 8>)_mm256_cvtepi32_ps(
          _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#endif
    return __builtin_convertvector(__builtin_convertvector(bytes, Vec<int32_t, Lanes>), Vec<float, Lanes>);
  }
}

template <int Lanes, class T>
  requires(!std::is_same_v<T, uint8_t>)
inline void store_pixels(T* to, Vec<float, Lanes> value) {
  store<Lanes>(to, value);
}

template <int Lanes>
inline void store_pixels(uint8_t* to, Vec<float, Lanes> value) {
  if constexpr (Lanes == 1) {
    *to = rounded<uint8_t>(static_cast<double>(value));
  } else {
    using V = Vec<float, Lanes>;
    const V positive = value > 0.0f ? value : V{};
    const V inside = positive < 255.0f ? positive : V{} + 255.0f;
    // Adding 1.5·2^23 rounds half to even and leaves the integer in the low bits.
    const auto whole = ((Vec<uint32_t, Lanes>)(inside + 12582912.0f)) & 0xff;
#if defined(TORCHEXT_AVX512)
    if constexpr (Lanes == 16)
      return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_maskz_cvtepi32_epi8(0xffff, (__m512i)whole));
#endif
#if defined(TORCHEXT_AVX2)
    if constexpr (Lanes == 8) {
      const __m256i wide = (__m256i)whole;
      const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
      return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(words, words));
    }
#endif
    const Vec<uint8_t, Lanes> bytes = __builtin_convertvector(whole, Vec<uint8_t, Lanes>);
    std::memcpy(to, &bytes, sizeof bytes);
  }
}

// The coefficients of a run of pixels: the same for the whole run (one channel), or different for each pixel
// (interleaved channels).
template <bool each_pixel, class C>
struct RunCoefficients {
  const C *factors, *offsets;

  template <int Lanes>
  Vec<C, Lanes> apply(Vec<C, Lanes> pixels, int64_t at) const {
    if constexpr (each_pixel)
      return multiply_add<C, Lanes>(pixels, load<Lanes>(factors + at), load<Lanes>(offsets + at));
    else
      // x - 0 is x. 0 + x would turn the offset -0, which keeps the sign of zeros, into 0.
      return multiply_add<C, Lanes>(pixels, *factors - Vec<C, Lanes>{}, *offsets - Vec<C, Lanes>{});
  }
};

// Converts a run in whole vectors. Runs are short, so the last vector overlaps its neighbour instead of leaving single
// elements.
template <int Lanes, class In, class Out, class Coefficients>
inline void convert_vectors(const In* in, int64_t count, const Coefficients& coefficients, Out* out) {
  const auto convert = [&](int64_t at) {
    store_pixels<Lanes>(out + at, coefficients.template apply<Lanes>(load_pixels<Lanes>(in + at), at));
  };
  int64_t at = 0;
  for (; at + Lanes <= count; at += Lanes) convert(at);
  if (at < count) convert(count - Lanes);
}

template <class T>
void widen(const void* from, int64_t count, double* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<double>(static_cast<const T*>(from)[i]);
}

template <class T>
void narrow(const double* from, int64_t count, void* to) {
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_integral_v<T>)
      static_cast<T*>(to)[i] = rounded<T>(from[i]);
    else
      static_cast<T*>(to)[i] = static_cast<T>(from[i]);
  }
}

// Patches next to each other in one row of patches, and the strides of the input.
struct PatchBlock {
  const char* in;
  char* out;
  int64_t columns;
  int64_t column, line, channel;  // from patch to patch, from line to line of a patch, from channel to channel
};

inline PatchBlock patch_block(const PatchTask& task, int64_t item) {
  const int64_t column = item % task.column_blocks * task.columns, row = item / task.column_blocks % task.grid[0];
  const int64_t sample = item / task.column_blocks / task.grid[0];
  const auto at = [&](const PatchStrides& s) { return sample * s.sample + row * s.grid[0] + column * s.grid[1]; };
  return {static_cast<const char*>(task.in) + at(task.from) * task.in_size,
          static_cast<char*>(task.out) + at(task.to) * task.out_size,
          std::min(task.columns, task.grid[1] - column),
          task.from.grid[1],
          task.from.inside[0],
          task.from.channel};
}

// Copies the pixels of a line with their channels, from any strides, to one line for each channel or to a line of
// interleaved channels.
template <class U>
inline void stage_line(const U* in, int64_t pixels, int64_t channels, int64_t pixel_stride, int64_t channel_stride,
                       bool interleaved, U* out, int64_t pitch) {
  if (interleaved && pixel_stride == 1) return transpose(in, channel_stride, channels, pixels, out, channels);
  if (!interleaved && channel_stride == 1) return transpose(in, pixel_stride, pixels, channels, out, pitch);
  const int64_t to_pixel = interleaved ? channels : 1, to_channel = interleaved ? 1 : pitch;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < pixels; ++i) out[c * to_channel + i * to_pixel] = in[c * channel_stride + i * pixel_stride];
}

// Copies a block to where its runs are next to each other, as (line, channel, pixel) or (line, pixel, channel).
template <class U>
void stage(const PatchTask& task, PatchBlock& block, U* staged) {
  const U* in = reinterpret_cast<const U*>(block.in);
  const int64_t width = task.size[1], pixels = block.columns * width, channels = task.channels;
  const bool interleaved = task.interleaved(), contiguous = block.column == width * task.from.inside[1];
  const int64_t pixels_at_once = contiguous ? pixels : width;
  for (int64_t line = 0; line < task.size[0]; ++line)
    for (int64_t first = 0; first < pixels; first += pixels_at_once)
      stage_line(in + line * block.line + first / width * block.column, pixels_at_once, channels, task.from.inside[1],
                 block.channel, interleaved, staged + line * channels * pixels + first * (interleaved ? channels : 1),
                 pixels);
  block.in = reinterpret_cast<const char*>(staged);
  block.column = width * (interleaved ? channels : 1);
  block.line = channels * pixels;
  block.channel = interleaved ? 1 : pixels;
}

// Calls body(offset in `in`, offset in `out`, channel) for each run of a block, in the order of the output.
template <class Body>
__attribute__((always_inline)) inline void each_patch_run(const PatchTask& task, const PatchBlock& block,
                                                          const Body& body) {
  struct Axis {
    int64_t count, from, to, channel;
  };
  Axis axes[3] = {{block.columns, block.column, task.to.grid[1], 0},
                  {task.interleaved() ? 1 : task.channels, block.channel, task.to.channel, 1},
                  {task.size[0], block.line, task.to.inside[0], 0}};
  const auto put_first = [&](int a, int b) {
    if (axes[a].to < axes[b].to) std::swap(axes[a], axes[b]);
  };
  put_first(0, 1);
  put_first(1, 2);
  put_first(0, 1);
  for (int64_t i = 0; i < axes[0].count; ++i)
    for (int64_t j = 0; j < axes[1].count; ++j)
      for (int64_t k = 0; k < axes[2].count; ++k)
        body(i * axes[0].from + j * axes[1].from + k * axes[2].from, i * axes[0].to + j * axes[1].to + k * axes[2].to,
             i * axes[0].channel + j * axes[1].channel + k * axes[2].channel);
}

template <bool each_pixel, class In, class Out>
void convert_block(const PatchTask& task, const PatchBlock& block, const float* factors, const float* offsets) {
  const In* in = reinterpret_cast<const In*>(block.in);
  Out* out = reinterpret_cast<Out*>(block.out);
  const int64_t run = each_pixel ? task.size[1] * task.channels : task.size[1];
  with_lanes<float>(run, [&](auto lanes) {
    each_patch_run(task, block, [&](int64_t from, int64_t to, int64_t channel) {
      const RunCoefficients<each_pixel, float> coefficients{factors + channel, offsets + channel};
      convert_vectors<lanes>(in + from, run, coefficients, out + to);
    });
  });
}

// Converts whole runs through double, for dtypes that are rare for images or need float64.
template <bool each_pixel>
void convert_any(const PatchTask& task, const PatchBlock& block, const double* factors, const double* offsets,
                 double* values) {
  const int64_t run = each_pixel ? task.size[1] * task.channels : task.size[1];
  // Runs are short, so their types are only looked up once.
  const auto widen_run = with_number_type(task.in_type, [](auto number) { return &widen<decltype(number)>; });
  const auto narrow_run = with_out_type(task.out_type, [](auto number) { return &narrow<decltype(number)>; });
  each_patch_run(task, block, [&](int64_t from, int64_t to, int64_t channel) {
    widen_run(block.in + from * task.in_size, run, values);
    const RunCoefficients<each_pixel, double> coefficients{factors + channel, offsets + channel};
    each_vector<double>(run, [&](auto lanes, int64_t at) {
      store<lanes>(values + at, coefficients.template apply<lanes>(load<lanes>(values + at), at));
    });
    narrow_run(values, run, block.out + to * task.out_size);
  });
}

// Writes the coefficients of the channels or, if channels are interleaved, of every pixel of a run.
template <class C>
void spread_coefficients(const PatchTask& task, C* factors, C* offsets) {
  const int64_t count = task.channels * (task.interleaved() ? task.size[1] : 1);
  for (int64_t i = 0; i < count; ++i) {
    factors[i] = static_cast<C>(task.factor(i % task.channels));
    offsets[i] = static_cast<C>(task.offset(i % task.channels));
  }
}

template <class Convert>
void patch_blocks(const PatchTask& task, int64_t begin, int64_t end, void* staged, const Convert& convert) {
  for (int64_t item = begin; item < end; ++item) {
    PatchBlock block = patch_block(task, item);
    if (task.staged > 0)
      with_bits(task.in_size, [&](auto bits) { stage(task, block, static_cast<decltype(bits)*>(staged)); });
    convert(block);
  }
}

template <bool each_pixel>
void convert_patches(const PatchTask& task, int64_t begin, int64_t end, double* scratch) {
  const int64_t most = task.channels * task.size[1];  // the number of coefficients
  double *factors = scratch, *offsets = scratch + most, *values = scratch + 2 * most, *staged = scratch + 3 * most;
  with_pixel_types(task, [&](auto in, auto out) {
    if constexpr (std::is_same_v<decltype(in), AnyNumber>) {
      spread_coefficients(task, factors, offsets);
      patch_blocks(task, begin, end, staged,
                   [&](const PatchBlock& block) { convert_any<each_pixel>(task, block, factors, offsets, values); });
    } else {
      float *single = reinterpret_cast<float*>(factors), *single_offsets = reinterpret_cast<float*>(offsets);
      spread_coefficients(task, single, single_offsets);
      patch_blocks(task, begin, end, staged, [&](const PatchBlock& block) {
        convert_block<each_pixel, decltype(in), decltype(out)>(task, block, single, single_offsets);
      });
    }
  });
}

static void patchify(const PatchTask& task, int64_t begin, int64_t end, void* scratch) {
  if (task.interleaved())
    convert_patches<true>(task, begin, end, static_cast<double*>(scratch));
  else
    convert_patches<false>(task, begin, end, static_cast<double*>(scratch));
}

}  // namespace torchext::TORCHEXT_ISA
