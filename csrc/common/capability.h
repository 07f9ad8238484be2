#pragma once

namespace torchext {

// The instruction sets that the CPU's loops are compiled for, see common/each_isa.h.
enum class Capability { kBaseline, kAvx2, kAvx512 };

// The best one that this processor has; TORCHEXT_CPU_CAPABILITY=baseline|avx2|avx512 selects a lesser one.
Capability cpu_capability();

// Of one loop compiled for each.
template <class Loop>
Loop* best_of(Loop* baseline, Loop* avx2, Loop* avx512) {
  const Capability capability = cpu_capability();
  return capability == Capability::kAvx512 ? avx512 : capability == Capability::kAvx2 ? avx2 : baseline;
}

}  // namespace torchext
