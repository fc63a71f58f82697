# The C library's functions that are replaced in the modules that call them, for delivery "sigbus".

ctypedef void *(*DlopenFn)(const char *, int) noexcept nogil

# Replace them in all modules that were loaded since the last time. Cheap where none was.
cdef void calls_watch() noexcept nogil

cdef void *_dlopen(const char *name, int flags) noexcept nogil
