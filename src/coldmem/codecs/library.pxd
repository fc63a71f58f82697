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

# -- libzstd with dictionaries
ctypedef void *(*zstd_create_cdict_fn)(const void *dictionary, size_t n, int level) noexcept nogil
ctypedef void *(*zstd_create_ddict_fn)(const void *dictionary, size_t n) noexcept nogil
ctypedef size_t (*zstd_sizeof_fn)(const void *tables) noexcept nogil
ctypedef size_t (*zstd_set_fn)(void *context, int parameter, int value) noexcept nogil
ctypedef size_t (*zstd_reset_fn)(void *context, int what) noexcept nogil
ctypedef size_t (*zstd_use_cdict_fn)(void *context, const void *cdict) noexcept nogil
ctypedef size_t (*zstd_decompress_ddict_fn)(void *context, void *dst, size_t cap, const void *src,
                                            size_t n, const void *ddict) noexcept nogil

cdef struct ZstdDictApi:
    zstd_create_cdict_fn create_cdict
    zstd_free_fn free_cdict
    zstd_sizeof_fn sizeof_cdict
    zstd_create_ddict_fn create_ddict
    zstd_free_fn free_ddict
    zstd_sizeof_fn sizeof_ddict
    zstd_set_fn set_compressor
    zstd_set_fn set_decompressor
    zstd_reset_fn reset_compressor
    zstd_use_cdict_fn use_cdict
    zstd_decompress_fn compress         # ZSTD_compress2 has the same signature
    zstd_decompress_ddict_fn decompress

ctypedef size_t (*zdict_train_fn)(void *dictionary, size_t cap, const void *samples,
                                  const size_t *sizes, unsigned int n) noexcept nogil
ctypedef const char *(*zdict_name_fn)(size_t code) noexcept nogil
ctypedef size_t (*zdict_header_fn)(const void *dictionary, size_t n) noexcept nogil

cdef struct ZdictParams:        # ZDICT_params_t: part of zdict.h's stable interface
    int level
    unsigned int verbosity
    unsigned int dictionary_id  # 0: made of the content

ctypedef size_t (*zdict_finish_fn)(void *dictionary, size_t cap, const void *content, size_t n,
                                   const void *samples, const size_t *sizes, unsigned int count,
                                   ZdictParams params) noexcept nogil

cdef struct ZdictFastCover:     # ZDICT_fastCover_params_t, of the part of zdict.h that may change
    unsigned int segment
    unsigned int word
    unsigned int table_bits
    unsigned int steps
    unsigned int threads
    double split
    unsigned int acceleration
    unsigned int shrink
    unsigned int shrink_regression
    ZdictParams params

ctypedef size_t (*zdict_fast_fn)(void *dictionary, size_t cap, const void *samples,
                                 const size_t *sizes, unsigned int n,
                                 ZdictFastCover params) noexcept nogil

cdef struct ZdictApi:
    zdict_train_fn train
    zdict_fast_fn train_fast    # NULL where the library does not export it
    zdict_finish_fn finish
    zdict_header_fn header_bytes
    zstd_error_fn is_error
    zdict_name_fn error_name

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
cdef int load_zstd_dict(ZstdApi *api, ZstdDictApi *d) except -1
cdef int load_zdict(ZdictApi *api) except -1
cdef int load_zlib(ZlibApi *api) except -1
cdef int load_blosc2(Blosc2Api *api) except -1
cdef void *open_first(tuple candidates, tuple symbols, str message) except NULL
cdef void *open_zstd(tuple symbols) except NULL
cdef int fill_zstd(ZstdApi *api, void *h) except -1
cdef void *symbol(void *library, bytes name) except NULL
