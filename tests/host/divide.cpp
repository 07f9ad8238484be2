// Division by multiplication, against the processor's own.
#include "check.h"
#include "common/divide.h"

using torchext::Divisor;

template <class Index>
static void check(int64_t numerator, const Divisor<Index>& by) {
  this_case = std::to_string(numerator) + " / " + std::to_string(by.divisor);
  Index rest = static_cast<Index>(numerator);
  CHECK(by.quotient(rest) == numerator / by.divisor);
  CHECK(by.split(rest) == numerator / by.divisor);
  CHECK(rest == numerator % by.divisor);
}

// Around every multiple of the divisor that is near a power of two: where a rounded reciprocal goes wrong
// first.
template <class Index>
static void check_near_multiples(int64_t divisor) {
  const Divisor<Index> by(divisor);
  const int64_t most = std::numeric_limits<Index>::max();
  for (int bit = 0; bit < by.kBits - 1; ++bit) {
    const int64_t near = (int64_t{1} << bit) / divisor * divisor;
    for (int64_t n = near > 1 ? near - 2 : 0; n <= near + 2 && n <= most - 2; ++n) check(n, by);
  }
  const int64_t last = most / divisor * divisor;
  for (int64_t n : {int64_t{0}, last - 1, last, most - 1, most}) check(n < 0 ? 0 : n, by);
}

template <class Index>
static void check_all(Random& random) {
  constexpr int kBits = 8 * sizeof(Index) - 1;
  for (int64_t divisor = 1; divisor <= 300; ++divisor) {
    const Divisor<Index> by(divisor);
    for (int64_t n = 0; n <= 3000; ++n) check(n, by);
    check_near_multiples<Index>(divisor);
  }
  for (int bit = 0; bit < kBits; ++bit)
    for (int64_t d = -2; d <= 2; ++d) {
      const int64_t divisor = (int64_t{1} << bit) + d;
      if (divisor >= 1 && divisor <= std::numeric_limits<Index>::max()) check_near_multiples<Index>(divisor);
    }
  for (int i = 0; i < 20000; ++i) {
    const int64_t most = std::numeric_limits<Index>::max();
    const Divisor<Index> by(random.between(1, most >> random.between(0, kBits - 1)));
    check(random.between(0, most), by);
    check(random.between(0, most) / by.divisor * by.divisor, by);
  }
}

int main(int argc, char** argv) {
  Random random(seed_of(argc, argv));
  check_all<int32_t>(random);
  check_all<int64_t>(random);
}
