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
    TORCHEXT_STRING(TORCHEXT_ISA),
    one_hot,
    class_indices,
    overlap,
    overlap_backward,
    multi_hot,
    weighted_hot,
    count,
    sum_blocks,
    add_tables,
    count_parts,
    order_parts,
    sum_pieces,
    add_pieces,
    class_rows,
    unfold,
    fold,
    cut,
    join,
    patchify,
    cam_sum,
    cam_weights,
    cam_channels,
    cam_maps,
    cam_resize,
};

}  // namespace torchext::TORCHEXT_ISA
