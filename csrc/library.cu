// Which CUDA kernel serves which operation. The schemas are defined in Python.
#include <cuda_runtime.h>

#include "cam/ops.h"
#include "common/old_glibc.cpp"  // a library of its own needs a definition of its own
#include "common/stamp.h"
#include "onehot/ops.h"
#include "windows/ops.h"
#include "windows/tiles_ops.h"
#include "windows/patchify_ops.h"

// Read from the file before the library is loaded: a driver older than this runtime could not run it, nor a GPU for
// which it has no code.
extern "C" __attribute__((visibility("default"), used)) const char torchext_cuda_runtime[] =
    "torchext-cuda-runtime=" TORCHEXT_STRING(CUDART_VERSION) ";"
    "torchext-cuda-architectures=" TORCHEXT_STRING(__CUDA_ARCH_LIST__) ";"
#if defined(TORCHEXT_CUDA_PTX)
    "torchext-cuda-ptx=" TORCHEXT_STRING(TORCHEXT_CUDA_PTX) ";"
#endif
    ;

STABLE_TORCH_LIBRARY_IMPL(torchext, CUDA, library) {
  library.impl("one_hot", TORCH_BOX(&torchext::one_hot_cuda));
  library.impl("one_hot_out", TORCH_BOX(&torchext::one_hot_out_cuda));
  library.impl("class_indices", TORCH_BOX(&torchext::class_indices_cuda));
  library.impl("take_bad_label", TORCH_BOX(&torchext::take_bad_label_cuda));
  library.impl("class_overlap", TORCH_BOX(&torchext::class_overlap_cuda));
  library.impl("class_overlap_backward", TORCH_BOX(&torchext::class_overlap_backward_cuda));
  library.impl("multi_hot", TORCH_BOX(&torchext::multi_hot_cuda));
  library.impl("multi_hot_out", TORCH_BOX(&torchext::multi_hot_out_cuda));
  library.impl("mixup_one_hot", TORCH_BOX(&torchext::mixup_one_hot_cuda));
  library.impl("class_counts", TORCH_BOX(&torchext::class_counts_cuda));
  library.impl("confusion_counts", TORCH_BOX(&torchext::confusion_counts_cuda));
  library.impl("class_sums", TORCH_BOX(&torchext::class_sums_cuda));
  library.impl("class_rows", TORCH_BOX(&torchext::class_rows_cuda));
  library.impl("unfold", TORCH_BOX(&torchext::unfold_cuda));
  library.impl("fold", TORCH_BOX(&torchext::fold_cuda));
  library.impl("extract_windows", TORCH_BOX(&torchext::extract_windows_cuda));
  library.impl("merge_windows", TORCH_BOX(&torchext::merge_windows_cuda));
  library.impl("gather_windows", TORCH_BOX(&torchext::gather_windows_cuda));
  library.impl("scatter_windows", TORCH_BOX(&torchext::scatter_windows_cuda));
  library.impl("patchify", TORCH_BOX(&torchext::patchify_cuda));
  library.impl("unpatchify", TORCH_BOX(&torchext::unpatchify_cuda));
  library.impl("cam_pool", TORCH_BOX(&torchext::cam_pool_cuda));
}
