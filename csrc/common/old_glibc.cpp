// Reference counts in libstdc++ read this variable of glibc 2.32 and later to skip atomic instructions. A definition of
// our own, which says that there may be other threads, lets the library load with older ones.
extern "C" [[gnu::visibility("hidden")]] char __libc_single_threaded;
char __libc_single_threaded = 0;
