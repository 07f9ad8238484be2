#include "common/isa.h"

#define TORCHEXT_ISA baseline
#include "common/isa_loops.h"
