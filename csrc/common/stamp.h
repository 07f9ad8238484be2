// What torchext._core.library.stamp() gave when the library was built. Read from the file before it is loaded: loading
// registers kernels, and those of another torchext would be called with arguments that they misread. For one file of a
// library to include.
#pragma once

#define TORCHEXT_STRING_(...) #__VA_ARGS__
#define TORCHEXT_STRING(...) TORCHEXT_STRING_(__VA_ARGS__)

extern "C" __attribute__((visibility("default"), used)) const char torchext_stamp[] =
    "torchext-stamp=" TORCHEXT_STRING(TORCHEXT_STAMP) ";";
