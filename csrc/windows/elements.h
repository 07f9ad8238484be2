// How the elements of windows are added, for the operations that merge windows.
#include "common/dtypes.h"
#include "common/isa.h"
#include "common/runs.h"
#include "common/simd.h"

#if defined(TORCHEXT_ELEMENTS) == defined(TORCHEXT_SECOND_ISA)  // see isa.h
#if defined(TORCHEXT_ELEMENTS)
#undef TORCHEXT_ELEMENTS
#else
#define TORCHEXT_ELEMENTS
#endif

namespace torchext::TORCHEXT_ISA {

// How the elements of a dtype are added: weighted by weights or by shares. A window with a weight of 0 contributes
// nothing. Where a weight may be 0 (kMayBeZero), its product is left out, because infinity times 0 would be a NaN.
template <class T>
struct FloatElements {
  using Element = T;
  using Sum = Compute<T>;
  using Weight = Compute<T>;
  static constexpr bool kBlends = true;
  static constexpr bool kShares = true;

  static void add(const T* from, int64_t count, Sum* sums) {
    each_vector<Sum>(
        count, [&](auto lanes, int64_t i) { store<lanes>(sums + i, load<lanes>(sums + i) + load<lanes>(from + i)); });
  }

  template <bool kMayBeZero>
  static void add_weighted(const T* from, const Weight* weights, int64_t count, Sum* sums) {
    each_vector<Sum>(count, [&](auto lanes, int64_t i) {
      const Vec<Sum, lanes> weight = load<lanes>(weights + i), sum = load<lanes>(sums + i);
      const Vec<Sum, lanes> more = multiply_add<Sum, lanes>(weight, load<lanes>(from + i), sum);
      store<lanes>(sums + i, kMayBeZero ? (weight == 0 ? sum : more) : more);
    });
  }

  static void write(const Sum* sums, const Weight*, const uint8_t*, int64_t count, T* to) {
    each_vector<Sum>(count, [&](auto lanes, int64_t i) { store<lanes>(to + i, load<lanes>(sums + i)); });
  }
};

template <class T>
struct ComplexElements {
  using Element = Complex<T>;
  using Sum = Complex<T>;
  using Weight = T;
  static constexpr bool kBlends = true;
  static constexpr bool kShares = true;

  static void add(const Element* from, int64_t count, Sum* sums) {
    FloatElements<T>::add(&from->real, 2 * count, &sums->real);
  }

  template <bool kMayBeZero>
  static void add_one(const Element& from, T share, Sum& sum) {
    if (kMayBeZero && share == 0) return;
    sum.real = multiply_add<T, 1>(share, from.real, sum.real);
    sum.imaginary = multiply_add<T, 1>(share, from.imaginary, sum.imaginary);
  }

  template <bool kMayBeZero>
  static void add_weighted(const Element* from, const Weight* weights, int64_t count, Sum* sums) {
    for (int64_t i = 0; i < count; ++i) add_one<kMayBeZero>(from[i], weights[i], sums[i]);
  }

  static void write(const Sum* sums, const Weight*, const uint8_t*, int64_t count, Element* to) {
    copy_run(sums, count, to);
  }
};

}  // namespace torchext::TORCHEXT_ISA

#endif
