#pragma once

namespace torchext {

// The instruction sets for which the CPU loops are compiled, see common/each_isa.h.
enum class Capability { kBaseline, kAvx2, kAvx512 };

// The best instruction set of this processor. TORCHEXT_CPU_CAPABILITY=baseline|avx2|avx512 sets an upper limit.
Capability cpu_capability();

// Returns the version of a loop that is compiled for the best instruction set of this processor.
template <class Loop>
Loop* best_of(Loop* baseline, Loop* avx2, Loop* avx512) {
  const Capability capability = cpu_capability();
  return capability == Capability::kAvx512 ? avx512 : capability == Capability::kAvx2 ? avx2 : baseline;
}

}  // namespace torchext
