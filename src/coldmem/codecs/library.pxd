# The functions that we take from shared libraries, as their documented C interfaces have them.
from libc.stdint cimport int32_t, uint8_t

# -- liblz4
ctypedef int (*lz4_state_fn)() noexcept nogil
ctypedef int (*lz4_compress_fn)(void *state, const char *src, char *dst, int n, int cap,
                                int acceleration) noexcept nogil
ctypedef int (*lz4_decompress_fn)(const char *src, char *dst, int n, int cap) noexcept nogil

cdef struct Lz4Api:
    lz4_state_fn state_bytes
    lz4_compress_fn compress
    lz4_decompress_fn decompress

# -- libzstd
ctypedef void *(*zstd_create_fn)() noexcept nogil
ctypedef size_t (*zstd_free_fn)(void *context) noexcept nogil
ctypedef size_t (*zstd_compress_fn)(void *context, void *dst, size_t cap, const void *src, size_t n,
                                    int level) noexcept nogil
ctypedef size_t (*zstd_decompress_fn)(void *context, void *dst, size_t cap, const void *src,
                                      size_t n) noexcept nogil
ctypedef unsigned int (*zstd_error_fn)(size_t code) noexcept nogil
ctypedef int (*zstd_level_fn)() noexcept nogil

cdef struct ZstdApi:
    zstd_create_fn create_compressor
    zstd_free_fn free_compressor
    zstd_create_fn create_decompressor
    zstd_free_fn free_decompressor
    zstd_compress_fn compress
    zstd_decompress_fn decompress
    zstd_error_fn is_error
    zstd_error_fn error_code
    zstd_level_fn level_min
    zstd_level_fn level_max

# -- libz
cdef struct ZStream:            # z_stream: part of zlib's stable binary interface
    const uint8_t *next_in
    unsigned int avail_in
    unsigned long total_in
    uint8_t *next_out
    unsigned int avail_out
    unsigned long total_out
    const char *msg
    void *state
    void *zalloc
    void *zfree
    void *opaque
    int data_type
    unsigned long adler
    unsigned long reserved

ctypedef int (*z_deflate_init_fn)(ZStream *s, int level, const char *version, int bytes) noexcept nogil
ctypedef int (*z_inflate_init_fn)(ZStream *s, const char *version, int bytes) noexcept nogil
ctypedef int (*z_run_fn)(ZStream *s, int flush) noexcept nogil
ctypedef int (*z_stream_fn)(ZStream *s) noexcept nogil

cdef struct ZlibApi:
    z_deflate_init_fn deflate_init
    z_run_fn deflate
    z_stream_fn deflate_reset
    z_stream_fn deflate_end
    z_inflate_init_fn inflate_init
    z_run_fn inflate
    z_stream_fn inflate_reset
    z_stream_fn inflate_end

# -- libblosc2
ctypedef int32_t (*blosc2_shuffle_fn)(int32_t width, int32_t n, const void *src,
                                      void *dst) noexcept nogil

cdef struct Blosc2Api:
    blosc2_shuffle_fn bitshuffle
    blosc2_shuffle_fn bitunshuffle

# Fill a table, loading the library at the first call. MissingLibraryError when it is not there.
cdef int load_lz4(Lz4Api *api) except -1
cdef int load_zstd(ZstdApi *api) except -1
cdef int load_zlib(ZlibApi *api) except -1
cdef int load_blosc2(Blosc2Api *api) except -1
cdef void *open_first(tuple candidates, tuple symbols, str message) except NULL
cdef void *symbol(void *library, bytes name) except NULL
