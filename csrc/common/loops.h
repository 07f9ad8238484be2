// The CPU's hot loops, compiled once for each instruction set (isa_*.cpp) and chosen when first used. The loops know
// nothing of tensors: each takes a task, a plain description of pointers and sizes, and a range of it to run.
#pragma once

#include <cstdint>

namespace torchext {

struct OneHotTask;
struct OverlapTask;
struct MultiHotTask;
struct WeightedHotTask;
struct CountsTask;
struct SumsTask;
struct RowsTask;
struct UnfoldTask;
struct FoldTask;
struct CutTask;
struct JoinTask;
struct PatchTask;
struct CamSum;
struct CamWeightSums;
struct CamChannels;
struct CamMap;
struct CamResize;

struct Loops {
  const char* name;
  void (*one_hot)(const OneHotTask& task, int64_t begin, int64_t end);
  void (*class_indices)(const OneHotTask& task, int64_t begin, int64_t end);
  void (*overlap)(const OverlapTask& task, int64_t begin, int64_t end, void* scratch);
  void (*overlap_backward)(const OverlapTask& task, int64_t begin, int64_t end, void* scratch);
  void (*multi_hot)(const MultiHotTask& task, int64_t begin, int64_t end);
  void (*weighted_hot)(const WeightedHotTask& task, int64_t begin, int64_t end);
  void (*count)(const CountsTask& task, int64_t begin, int64_t end);
  void (*sum_blocks)(const SumsTask& task, int64_t begin, int64_t end);
  void (*add_tables)(const SumsTask& task, int64_t begin, int64_t end);
  void (*count_parts)(const SumsTask& task, int64_t begin, int64_t end);
  void (*order_parts)(const SumsTask& task, int64_t begin, int64_t end);
  void (*sum_pieces)(const SumsTask& task, int64_t begin, int64_t end);
  void (*add_pieces)(const SumsTask& task, int64_t begin, int64_t end);
  void (*rows)(const RowsTask& task, int64_t begin, int64_t end);
  void (*unfold)(const UnfoldTask& task, int64_t begin, int64_t end, void* scratch);
  void (*fold)(const FoldTask& task, int64_t begin, int64_t end, void* scratch);
  void (*cut)(const CutTask& task, int64_t begin, int64_t end);
  void (*join)(const JoinTask& task, int64_t begin, int64_t end, void* scratch);
  void (*patchify)(const PatchTask& task, int64_t begin, int64_t end, void* scratch);
  void (*cam_sum)(const CamSum& task, int64_t begin, int64_t end);
  void (*cam_weights)(const CamWeightSums& task, int64_t begin, int64_t end);
  void (*cam_channels)(const CamChannels& task, int64_t begin, int64_t end);
  void (*cam_maps)(const CamMap& task, int64_t begin, int64_t end);
  void (*cam_resize)(const CamResize& task, int64_t begin, int64_t end, void* scratch);
};

// The best table that this processor runs; TORCHEXT_CPU_CAPABILITY=baseline|avx2|avx512 asks for a lesser one.
const Loops& loops();

}  // namespace torchext
