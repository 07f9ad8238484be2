// The value of torchext._core.library.stamp() when the library was built. torchext reads it from the file before it
// loads the library: loading registers the kernels, and the kernels of another version of torchext would misread their
// arguments. Exactly one source file of a library includes this header.
#pragma once

#define TORCHEXT_STRING_(...) #__VA_ARGS__
#define TORCHEXT_STRING(...) TORCHEXT_STRING_(__VA_ARGS__)

extern "C" __attribute__((visibility("default"), used)) const char torchext_stamp[] =
    "torchext-stamp=" TORCHEXT_STRING(TORCHEXT_STAMP) ";";
