// Compiled once for each instruction set; no include guard, see isa.h.
#include "common/runs.h"
#include "common/simd.h"
#include "common/transpose.h"

#include "cam/loops.h"
#include "onehot/label_loops.h"
#include "onehot/loops.h"
#include "onehot/multi_hot_loops.h"
#include "onehot/overlap_loops.h"
#include "onehot/sums_loops.h"
#include "windows/loops.h"
#include "windows/tiles_loops.h"
#include "windows/patchify_loops.h"

namespace torchext::TORCHEXT_ISA {

#define TORCHEXT_STRING_(x) #x
#define TORCHEXT_STRING(x) TORCHEXT_STRING_(x)

extern const Loops table;
const Loops table = {
    .name = TORCHEXT_STRING(TORCHEXT_ISA),
    .one_hot = one_hot,
    .class_indices = class_indices,
    .overlap = overlap,
    .overlap_backward = overlap_backward,
    .multi_hot = multi_hot,
    .weighted_hot = weighted_hot,
    .count = count,
    .sum_blocks = sum_blocks,
    .add_tables = add_tables,
    .count_parts = count_parts,
    .order_parts = order_parts,
    .sum_pieces = sum_pieces,
    .add_pieces = add_pieces,
    .rows = class_rows,
    .unfold = unfold,
    .fold = fold,
    .cut = cut,
    .join = join,
    .patchify = patchify,
    .cam_sum = cam_sum,
    .cam_weights = cam_weights,
    .cam_channels = cam_channels,
    .cam_maps = cam_maps,
    .cam_resize = cam_resize,
};

}  // namespace torchext::TORCHEXT_ISA
