// libstdc++ reads this variable of glibc 2.32 and later to skip atomic instructions in reference counts. This library's
// own definition, whose value means that there may be other threads, makes the library load with older versions of
// glibc too.
extern "C" [[gnu::visibility("hidden")]] char __libc_single_threaded;
char __libc_single_threaded = 0;
