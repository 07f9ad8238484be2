// Vectors as wide as the registers of this instruction set, loaded from and stored to any float dtype. Half types are
// computed in float32.
#include "common/bits.h"
#include "common/dtypes.h"
#include "common/isa.h"

#if defined(TORCHEXT_SIMD) == defined(TORCHEXT_SECOND_ISA)  // see isa.h
#if defined(TORCHEXT_SIMD)
#undef TORCHEXT_SIMD
#else
#define TORCHEXT_SIMD
#endif

namespace torchext::TORCHEXT_ISA {

#if defined(TORCHEXT_AVX512)
constexpr int kSimdBytes = 64;
#elif defined(TORCHEXT_AVX2)
constexpr int kSimdBytes = 32;
#else
constexpr int kSimdBytes = 16;
#endif

template <class T, int Lanes>
struct VecOf {
  typedef T type __attribute__((vector_size(Lanes * sizeof(T))));
};
template <class T>
struct VecOf<T, 1> {
  typedef T type;
};
template <class T, int Lanes>
using Vec = typename VecOf<T, Lanes>::type;

template <int Lanes>
Vec<float, Lanes> load_half(const c10::BFloat16* from) {
  Vec<uint16_t, Lanes> bits;
  std::memcpy(&bits, from, sizeof bits);
  // GCC 12 splits its own vector conversions into smaller ones, which takes twice the time.
#if defined(TORCHEXT_AVX512)
  if constexpr (Lanes == 16)
    return (Vec<float, 16>)((Vec<uint32_t, 16>)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)bits) << 16);
#endif
#if defined(TORCHEXT_AVX2)
  if constexpr (Lanes == 8) return (Vec<float, 8>)((Vec<uint32_t, 8>)_mm256_cvtepu16_epi32((__m128i)bits) << 16);
#endif
  if constexpr (Lanes == 4)
    return (Vec<float, 4>)__builtin_shufflevector(bits, Vec<uint16_t, 4>{}, 4, 0, 5, 1, 6, 2, 7, 3);
  return (Vec<float, Lanes>)(__builtin_convertvector(bits, Vec<uint32_t, Lanes>) << 16);
}

template <int Lanes>
Vec<float, Lanes> load_half(const c10::Half* from) {
  [[maybe_unused]] Vec<uint16_t, Lanes> bits;
  std::memcpy(&bits, from, sizeof bits);
#if defined(TORCHEXT_AVX512)
  if constexpr (Lanes == 16) return (Vec<float, 16>)_mm512_maskz_cvtph_ps(0xffff, (__m256i)bits);
#endif
#if defined(TORCHEXT_AVX2)
  if constexpr (Lanes == 8) return (Vec<float, 8>)_mm256_cvtph_ps((__m128i)bits);
  if constexpr (Lanes == 4) return (Vec<float, 4>)_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#elif defined(__aarch64__)
  if constexpr (Lanes == 4) return (Vec<float, 4>)vcvt_f32_f16((float16x4_t)bits);
#endif
  Vec<float, Lanes> value;
  for (int i = 0; i < Lanes; ++i) value[i] = static_cast<float>(from[i]);
  return value;
}

template <int Lanes>
void store_half(c10::BFloat16* to, Vec<float, Lanes> value) {
  using Bits = Vec<uint32_t, Lanes>;
  const Bits wide = (Bits)value;
  const Bits rounded = (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  const Bits kept = value == value ? rounded : Bits{} + 0x7fc0;
  const Vec<uint16_t, Lanes> bits = __builtin_convertvector(kept, Vec<uint16_t, Lanes>);
  std::memcpy(to, &bits, sizeof bits);
}

template <int Lanes>
void store_half(c10::Half* to, Vec<float, Lanes> value) {
#if defined(TORCHEXT_AVX512)
  if constexpr (Lanes == 16)
    return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                               _mm512_maskz_cvtps_ph(0xffff, (__m512)value, _MM_FROUND_TO_NEAREST_INT));
#endif
#if defined(TORCHEXT_AVX2)
  if constexpr (Lanes == 8)
    return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT));
  if constexpr (Lanes == 4)
    return _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_cvtps_ph((__m128)value, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
  if constexpr (Lanes == 4) {
    const float16x4_t bits = vcvt_f16_f32((float32x4_t)value);
    std::memcpy(to, &bits, sizeof bits);
    return;
  }
#endif
  for (int i = 0; i < Lanes; ++i) to[i] = static_cast<c10::Half>(value[i]);
}

template <int Lanes, class T>
Vec<Compute<T>, Lanes> load(const T* from) {
  if constexpr (Lanes == 1) {
    return static_cast<Compute<T>>(*from);
  } else if constexpr (std::is_same_v<T, Compute<T>>) {
    Vec<T, Lanes> value;
    std::memcpy(&value, from, sizeof value);
    return value;
  } else {
    return load_half<Lanes>(from);
  }
}

// Rounds to nearest even.
template <int Lanes, class T>
void store(T* to, Vec<Compute<T>, Lanes> value) {
  if constexpr (Lanes == 1)
    *to = static_cast<T>(value);
  else if constexpr (std::is_same_v<T, Compute<T>>)
    std::memcpy(to, &value, sizeof value);
  else
    store_half<Lanes>(to, value);
}

// a·b + c, rounded once where the instruction set has such an instruction. It is written as an intrinsic because a
// compiler may choose differently, from one copy of a loop to the next, which of two products it contracts; the last
// bit of the result would then differ.
template <class T, int Lanes>
Vec<T, Lanes> multiply_add(Vec<T, Lanes> a, Vec<T, Lanes> b, Vec<T, Lanes> c) {
  [[maybe_unused]] constexpr bool kDouble = sizeof(T) == 8;
#if defined(TORCHEXT_AVX2)
  if constexpr (Lanes == 1) return kDouble ? __builtin_fma(a, b, c) : __builtin_fmaf(a, b, c);
  if constexpr (!kDouble && Lanes == 4) return (Vec<T, 4>)_mm_fmadd_ps((__m128)a, (__m128)b, (__m128)c);
  if constexpr (!kDouble && Lanes == 8) return (Vec<T, 8>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
  if constexpr (kDouble && Lanes == 4) return (Vec<T, 4>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#if defined(TORCHEXT_AVX512)
  if constexpr (!kDouble && Lanes == 16) return (Vec<T, 16>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
  if constexpr (kDouble && Lanes == 8) return (Vec<T, 8>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#endif
#elif defined(__aarch64__)
  if constexpr (Lanes == 1) return kDouble ? __builtin_fma(a, b, c) : __builtin_fmaf(a, b, c);
  if constexpr (!kDouble && Lanes == 4) return (Vec<T, 4>)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
  if constexpr (kDouble && Lanes == 2) return (Vec<T, 2>)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

// e to the power of each lane, to two units in the last place: 2^n times Taylor's polynomial on [-ln 2 / 2, ln 2 / 2].
// A result that would not be a normal number is 0 or infinite.
template <class T, int Lanes>
Vec<T, Lanes> exponential(Vec<T, Lanes> x) {
  using V = Vec<T, Lanes>;
  constexpr bool kDouble = sizeof(T) == 8;
  using Bits = std::conditional_t<kDouble, int64_t, int32_t>;
  constexpr int kMantissa = kDouble ? 52 : 23, kBias = kDouble ? 1023 : 127;
  // adding it leaves a rounded integer in the low bits
  constexpr T kRound = kDouble ? T(6755399441055744.0) : T(12582912.0);
  constexpr T kLn2High = kDouble ? T(0x1.62e42fee00000p-1) : T(0x1.62e4p-1);
  constexpr T kLn2Low = kDouble ? T(0x1.a39ef35793c76p-33) : T(0x1.7f7d1cp-20);
  constexpr T kLowest = kDouble ? T(-708.396) : T(-87.3365), kHighest = kDouble ? T(709.436) : T(88.3762);
  const V inside = x < kLowest ? V{} + kLowest : x > kHighest ? V{} + kHighest : x;
  const V shifted = multiply_add<T, Lanes>(inside, V{} + T(1.44269504088896340736), V{} + kRound);
  const V n = shifted - kRound;
  const V r = multiply_add<T, Lanes>(n, V{} - kLn2Low, multiply_add<T, Lanes>(n, V{} - kLn2High, inside));
  V sum = V{} + T(1);
  // 1 + r/1 (1 + r/2 (1 + r/3 (...)))
#pragma GCC unroll 13
  for (int k = kDouble ? 13 : 7; k > 0; --k) sum = multiply_add<T, Lanes>(r * (T(1) / T(k)), sum, V{} + T(1));
  const Vec<Bits, Lanes> power = (((Vec<Bits, Lanes>)shifted + kBias) << kMantissa);
  const V result = sum * (V)power;
  return x < kLowest ? V{} : x > kHighest ? V{} + std::numeric_limits<T>::infinity() : result;
}

template <class T, int Lanes, int... I>
Vec<T, Lanes / 2> add_halves(Vec<T, Lanes> value, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(value, value, I...) + __builtin_shufflevector(value, value, (I + Lanes / 2)...);
}

// Adds up every fourth lane.
template <class T, int Lanes>
Vec<T, 4> add_quads(Vec<T, Lanes> value) {
  if constexpr (Lanes == 4)
    return value;
  else
    return add_quads<T, Lanes / 2>(add_halves<T, Lanes>(value, std::make_integer_sequence<int, Lanes / 2>{}));
}

template <class T, int Lanes>
T add_lanes(Vec<T, Lanes> value) {
  if constexpr (Lanes == 1) {
    return value;
  } else if constexpr (Lanes == 2) {
    return value[0] + value[1];
  } else {
    const Vec<T, 4> quad = add_quads<T, Lanes>(value);
    return (quad[0] + quad[2]) + (quad[1] + quad[3]);
  }
}

// In each group of four lanes: a0+a1, a2+a3, b0+b1, b2+b3.
template <class T, int Lanes, int... I>
Vec<T, Lanes> add_pairs(Vec<T, Lanes> a, Vec<T, Lanes> b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (I / 4 * 4 + I % 2 * 2 + I / 2 % 2 * Lanes)...) +
         __builtin_shufflevector(a, b, (I / 4 * 4 + I % 2 * 2 + I / 2 % 2 * Lanes + 1)...);
}

// The sum of all lanes of each of four vectors. This takes half the shuffles of four separate sums.
template <class T, int Lanes>
Vec<T, 4> add_lanes(Vec<T, Lanes> a, Vec<T, Lanes> b, Vec<T, Lanes> c, Vec<T, Lanes> d) {
  constexpr auto kLanes = std::make_integer_sequence<int, Lanes>{};
  return add_quads<T, Lanes>(
      add_pairs<T, Lanes>(add_pairs<T, Lanes>(a, b, kLanes), add_pairs<T, Lanes>(c, d, kLanes), kLanes));
}

// Calls body with the largest number of lanes that is not larger than `count`, or with 1 lane.
template <class T, class Body>
void with_lanes(int64_t count, const Body& body) {
  constexpr int kWidest = kSimdBytes / static_cast<int>(sizeof(T));
  if (count >= kWidest) return body(std::integral_constant<int, kWidest>{});
  if constexpr (kWidest > 8)
    if (count >= 8) return body(std::integral_constant<int, 8>{});
  if constexpr (kWidest > 4)
    if (count >= 4) return body(std::integral_constant<int, 4>{});
  body(std::integral_constant<int, 1>{});
}

// An upper limit of the number of vectors that start within `count` elements, for the number of lanes that with_lanes
// chooses. Code for more vectors is never reached and is not compiled.
template <class T, int Lanes>
constexpr int kMostVectors = Lanes * static_cast<int>(sizeof(T)) == kSimdBytes ? INT32_MAX
                             : Lanes == 1                                      ? 3
                                                                               : 2;

// Calls body over [0, count): for whole vectors first, then for single elements.
template <class T, class Body>
__attribute__((always_inline)) inline void each_vector(int64_t count, const Body& body) {
  constexpr int kWidest = kSimdBytes / static_cast<int>(sizeof(T));
  int64_t i = 0;
  for (; i + kWidest <= count; i += kWidest) body(std::integral_constant<int, kWidest>{}, i);
  for (; i < count; ++i) body(std::integral_constant<int, 1>{}, i);
}

// Converts a row of any float dtype to float32.
template <class T>
void to_float(const T* from, float* to, int64_t count) {
  each_vector<float>(count, [&](auto lanes, int64_t i) { store<lanes>(to + i, load<lanes>(from + i)); });
}

template <class T>
void from_float(const float* from, T* to, int64_t count) {
  each_vector<float>(count, [&](auto lanes, int64_t i) { store<lanes>(to + i, load<lanes>(from + i)); });
}

// Sets all lanes to zero except the last `kept`.
template <class T, int Lanes>
Vec<T, Lanes> keep_last(Vec<T, Lanes> value, int64_t kept) {
  using Bits = UnsignedOf<sizeof(T)>;
  struct Edge {
    Bits bits[2 * Lanes] = {};
    constexpr Edge() {
      for (int i = Lanes; i < 2 * Lanes; ++i) bits[i] = ~Bits{0};
    }
  };
  static constexpr Edge kEdge;
  Vec<Bits, Lanes> mask;
  std::memcpy(&mask, kEdge.bits + kept, sizeof mask);
  return (Vec<T, Lanes>)((Vec<Bits, Lanes>)value & mask);
}

}  // namespace torchext::TORCHEXT_ISA

#endif
