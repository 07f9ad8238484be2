// Rows of half precision to float32 and back, rounded to nearest even.
namespace torchext::TORCHEXT_ISA {

inline void to_float(const c10::BFloat16* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(from[i].x) << 16;
    std::memcpy(&to[i], &bits, sizeof(float));
  }
}

inline void from_float(const float* from, c10::BFloat16* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, &from[i], sizeof(float));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    to[i].x = static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
  }
}

inline void to_float(const c10::Half* from, float* to, int64_t count) {
  int64_t i = 0;
#if defined(TORCHEXT_AVX2)
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
#endif
  for (; i < count; ++i) to[i] = from[i];
}

inline void from_float(const float* from, c10::Half* to, int64_t count) {
  int64_t i = 0;
#if defined(TORCHEXT_AVX2)
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < count; ++i) to[i] = from[i];
}

}  // namespace torchext::TORCHEXT_ISA
