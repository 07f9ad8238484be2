#pragma once

#include <cstdint>
#include <type_traits>

#include "common/host_device.h"

namespace torchext {

// Division by a number that is known at launch, as a multiplication and a shift: a GPU has no instruction for integer
// division. Index is int32_t or int64_t; 1 <= divisor, 0 <= numerator. (Granlund and Montgomery 1994. Numerators are
// not negative, so the sum of `high` and the numerator cannot overflow.)
template <class Index>
struct Divisor {
  static constexpr int kBits = 8 * sizeof(Index);
  using Unsigned = std::make_unsigned_t<Index>;
  using Wide = std::conditional_t<kBits == 32, uint64_t, unsigned __int128>;

  Divisor() = default;
  explicit Divisor(int64_t by) : divisor(static_cast<Index>(by)), multiplier(1), shift(0) {
    while ((Wide{1} << shift) < static_cast<Wide>(by)) ++shift;
    const Wide excess = (Wide{1} << shift) - static_cast<Wide>(by);
    multiplier += static_cast<Unsigned>((excess << kBits) / static_cast<Wide>(by));
  }

  TORCHEXT_HD Index quotient(Index numerator) const {
    const Unsigned n = static_cast<Unsigned>(numerator);
    const Unsigned high = static_cast<Unsigned>((static_cast<Wide>(n) * multiplier) >> kBits);
    return static_cast<Index>((high + n) >> shift);
  }

  // Returns the quotient and leaves the remainder in `numerator`.
  TORCHEXT_HD Index split(Index& numerator) const {
    const Index whole = quotient(numerator);
    numerator -= whole * divisor;
    return whole;
  }

  Index divisor;
  Unsigned multiplier;
  int shift;
};

}  // namespace torchext
