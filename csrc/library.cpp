// This source gives the CPU library its build stamp. Each kernel is registered in its own source file; the schemas are
// defined in Python.
#include "common/stamp.h"
