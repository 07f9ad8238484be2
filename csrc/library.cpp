// What the CPU library says of itself. Each kernel is registered in its own source; the schemas are defined in Python.
#include "common/stamp.h"
