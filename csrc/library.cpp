// Which C++ kernel serves which operation on the CPU. The schemas are defined in Python.
#include "cam/ops.h"
#include "common/stamp.h"
#include "onehot/ops.h"
#include "windows/ops.h"
#include "windows/tiles_ops.h"
#include "windows/patchify_ops.h"

STABLE_TORCH_LIBRARY_IMPL(torchext, CPU, library) {
  library.impl("one_hot", TORCH_BOX(&torchext::one_hot_cpu));
  library.impl("one_hot_out", TORCH_BOX(&torchext::one_hot_out_cpu));
  library.impl("class_indices", TORCH_BOX(&torchext::class_indices_cpu));
  library.impl("class_overlap", TORCH_BOX(&torchext::class_overlap_cpu));
  library.impl("class_overlap_backward", TORCH_BOX(&torchext::class_overlap_backward_cpu));
  library.impl("multi_hot", TORCH_BOX(&torchext::multi_hot_cpu));
  library.impl("multi_hot_out", TORCH_BOX(&torchext::multi_hot_out_cpu));
  library.impl("mixup_one_hot", TORCH_BOX(&torchext::mixup_one_hot_cpu));
  library.impl("class_counts", TORCH_BOX(&torchext::class_counts_cpu));
  library.impl("confusion_counts", TORCH_BOX(&torchext::confusion_counts_cpu));
  library.impl("class_sums", TORCH_BOX(&torchext::class_sums_cpu));
  library.impl("class_rows", TORCH_BOX(&torchext::class_rows_cpu));
  library.impl("unfold", TORCH_BOX(&torchext::unfold_cpu));
  library.impl("fold", TORCH_BOX(&torchext::fold_cpu));
  library.impl("extract_windows", TORCH_BOX(&torchext::extract_windows_cpu));
  library.impl("merge_windows", TORCH_BOX(&torchext::merge_windows_cpu));
  library.impl("gather_windows", TORCH_BOX(&torchext::gather_windows_cpu));
  library.impl("scatter_windows", TORCH_BOX(&torchext::scatter_windows_cpu));
  library.impl("patchify", TORCH_BOX(&torchext::patchify_cpu));
  library.impl("unpatchify", TORCH_BOX(&torchext::unpatchify_cpu));
  library.impl("cam_pool", TORCH_BOX(&torchext::cam_pool_cpu));
}
