"""Zstandard with a dictionary: for values that are small and alike.

Owns: libzstd's tables of the dictionary, one set for compression and one for decompression, shared by
all contexts. Both refer to the bytes object `dictionary`, of which there is no further copy.
Guarantees: as in ``codec.pxd``; decompression keeps to both buffers on any input and allocates nothing
that the input asks for. A frame says as little as it can: no magic number, no size of its content, no
checksum, no number of the dictionary. So the caller knows the size and which codec made it; with
another dictionary, wrong bytes may come out.
Assumes: the dictionary is at hand as long as anything that was compressed with it.
Locks: none; the tables are constant, and a context holds libzstd's own contexts, made at first use.
"""

import zlib

import cython
from cython.cimports.coldmem.codecs.library import load_zdict, load_zstd_dict
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdlib import calloc, free, malloc

from coldmem.errors import CodecError, MissingLibraryError, TrainingError, UnknownCodecError, UsageError

SIZE_BYTES_MAX = cython.declare(cython.uint, 0x7E000000)  # results are int32_t
DICTIONARY_BYTES_MIN = 8  # libzstd ignores a shorter one
DICTIONARY_BYTES_MAX = 1 << 24  # far beyond use; keeps all sums of sizes small
SAMPLES_MIN = 8
SAMPLES_BYTES_MAX = 1 << 28
DESTINATION_TOO_SMALL = cython.declare(cython.uint, 70)  # ZSTD_error_dstSize_tooSmall, stable
RESET_SESSION = cython.declare(cython.int, 1)
# Parameters of contexts, by the numbers that libzstd's interface fixes. The format is the only one of
# them that is called experimental; libzstd has it since 1.4, and construction looks whether it takes it.
FORMAT_OUT = cython.declare(cython.int, 10)
FORMAT_IN = cython.declare(cython.int, 1000)
MAGICLESS = cython.declare(cython.int, 1)
CONTENT_SIZE = cython.declare(cython.int, 200)
CHECKSUM = cython.declare(cython.int, 201)
DICTIONARY_ID = cython.declare(cython.int, 202)


def new_compressor(s):
    context: cython.p_void = s.api.create_compressor()
    if context == cython.NULL:
        return context
    if (
        s.api.is_error(s.dict_api.set_compressor(context, FORMAT_OUT, MAGICLESS))
        or s.api.is_error(s.dict_api.set_compressor(context, CONTENT_SIZE, 0))
        or s.api.is_error(s.dict_api.set_compressor(context, CHECKSUM, 0))
        or s.api.is_error(s.dict_api.set_compressor(context, DICTIONARY_ID, 0))
    ):
        s.api.free_compressor(context)
        return cython.NULL
    return context


def new_decompressor(s):
    context: cython.p_void = s.api.create_decompressor()
    if context == cython.NULL:
        return context
    if s.api.is_error(s.dict_api.set_decompressor(context, FORMAT_IN, MAGICLESS)):
        s.api.free_decompressor(context)
        return cython.NULL
    return context


def dict_compress(context, src, n, dst, cap, hint):
    c: DictContextP = cython.cast(DictContextP, context)
    s: DictSettingsP = c.settings
    size: cython.size_t
    if n > SIZE_BYTES_MAX:
        return -1
    if n == 0 or cap == 0:
        return 0
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    if c.compressor == cython.NULL:
        c.compressor = new_compressor(s)
        if c.compressor == cython.NULL:
            return -1
    if c.cdict != s.cdict:
        # A frame that did not fit may have left a session open, in which it takes no dictionary.
        s.dict_api.reset_compressor(c.compressor, RESET_SESSION)
        if s.api.is_error(s.dict_api.use_cdict(c.compressor, s.cdict)):
            return -1
        c.cdict = s.cdict
    size = s.dict_api.compress(c.compressor, dst, cap, src, n)
    if s.api.is_error(size):
        return 0 if s.api.error_code(size) == DESTINATION_TOO_SMALL else -1
    return size


def dict_decompress(context, src, n, dst, cap):
    c: DictContextP = cython.cast(DictContextP, context)
    s: DictSettingsP = c.settings
    size: cython.size_t
    if n == 0:
        return -1
    if cap > SIZE_BYTES_MAX:
        cap = SIZE_BYTES_MAX
    if c.decompressor == cython.NULL:
        c.decompressor = new_decompressor(s)
        if c.decompressor == cython.NULL:
            return -1
    size = s.dict_api.decompress(c.decompressor, dst, cap, src, n, s.ddict)
    return -1 if s.api.is_error(size) else size


def dict_context_new(self, unit_bytes):
    c: DictContextP = cython.cast(DictContextP, calloc(1, cython.sizeof(DictContext)))
    if c != cython.NULL:
        c.settings = cython.cast(DictSettingsP, self)
    return c


def dict_context_serve(context, self):
    c: DictContextP = cython.cast(DictContextP, context)
    c.settings = cython.cast(DictSettingsP, self)


def dict_context_free(context):
    c: DictContextP = cython.cast(DictContextP, context)
    if c != cython.NULL:
        # Both accept NULL.
        c.settings.api.free_compressor(c.compressor)
        c.settings.api.free_decompressor(c.decompressor)
        free(c)


# no_gc_clear: __dealloc__ frees tables that refer to the dictionary, which must not go first.
@cython.no_gc_clear
@cython.cclass
class ZstdDictCodec(Codec):
    """Zstandard with a dictionary, which both sides need.

    Parameters
    ----------
    dictionary : bytes
        From `train_dictionary`; or any content that is like the values, 8 bytes to 16 MiB.
    level : int, optional
        Negative levels are faster; libzstd says which exist.

    Raises
    ------
    UsageError
        When the dictionary is too short or too long.
    CodecError
        When libzstd does not take it: a trained dictionary that was damaged.
    MissingLibraryError
        When there is no libzstd, or one older than 1.4.

    Attributes
    ----------
    dictionary : bytes
        As given.
    level : int
        As given.
    """

    def __init__(self, dictionary, level=1):
        s: DictSettingsP = cython.address(self.settings)
        context: cython.p_void
        data: bytes
        size: cython.size_t
        if s.cdict != cython.NULL:
            raise UsageError("a codec has one dictionary; make another codec for another")
        data = bytes(memoryview(dictionary))
        if not DICTIONARY_BYTES_MIN <= len(data) <= DICTIONARY_BYTES_MAX:
            raise UsageError(
                f"a dictionary has {DICTIONARY_BYTES_MIN} to {DICTIONARY_BYTES_MAX} bytes, "
                f"not {len(data)}"
            )
        load_zstd_dict(cython.address(s.api), cython.address(s.dict_api))
        lowest = s.api.level_min()
        highest = s.api.level_max()
        if level == 0 or not lowest <= level <= highest:
            raise UnknownCodecError(
                f"zstd with level {level}: levels are {lowest} to {highest}, without 0"
            )
        self.dictionary = data
        self.level = level
        size = len(data)
        s.ddict = s.dict_api.create_ddict(PyBytes_AS_STRING(data), size)
        if s.ddict == cython.NULL:
            raise CodecError(refusal(data))
        s.cdict = s.dict_api.create_cdict(PyBytes_AS_STRING(data), size, level)
        if s.cdict == cython.NULL:
            raise CodecError(refusal(data))
        for making in (True, False):
            context = new_compressor(s) if making else new_decompressor(s)
            if context == cython.NULL:
                raise MissingLibraryError(
                    "this libzstd cannot leave out the magic number of frames: install libzstd 1.4 or "
                    "newer (or there is no memory for its context)"
                )
            if making:
                s.api.free_compressor(context)
            else:
                s.api.free_decompressor(context)
        self.name = f"zstd-dict:{level}"
        self.c.compress = dict_compress
        self.c.decompress = dict_decompress
        self.c.context_new = dict_context_new
        self.c.context_free = dict_context_free
        self.c.self = s

    def __dealloc__(self):
        if self.settings.cdict != cython.NULL:
            self.settings.dict_api.free_cdict(self.settings.cdict)
        if self.settings.ddict != cython.NULL:
            self.settings.dict_api.free_ddict(self.settings.ddict)

    @property
    def dictionary_bytes(self):
        """Memory of the dictionary and of libzstd's tables of it, without contexts."""
        s: DictSettingsP = cython.address(self.settings)
        size: cython.size_t = len(self.dictionary)
        if s.cdict != cython.NULL:
            size += s.dict_api.sizeof_cdict(s.cdict)
        if s.ddict != cython.NULL:
            size += s.dict_api.sizeof_ddict(s.ddict)
        return size


def refusal(data):
    return (
        f"libzstd does not take this dictionary of {len(data)} bytes (crc32 {zlib.crc32(data):08x}): it "
        "is damaged, or there is no memory for its tables; train it again"
    )


def train_dictionary(samples, nbytes=32768, level=1):
    """A dictionary for values like these.

    Parameters
    ----------
    samples : sequence of buffers
        At least 8, better 200, of the values to come; more than 1000 gain nothing. Together some
        ten times `nbytes` or more.
    nbytes : int, optional
        Most bytes of the dictionary, 256 to 16 MiB. What it may become is also limited by what the
        samples have in common.
    level : int, optional
        The level that it will be used with.

    Returns
    -------
    bytes
        For `ZstdDictCodec`.

    Raises
    ------
    TrainingError
        When the samples are too few, too small, or have nothing in common.
    MissingLibraryError
        When there is no libzstd, or one without its trainer.

    Notes
    -----
    The GIL is released while it trains; 200 samples of 1 KiB take about 20 ms.
    """
    api: ZdictApi
    sizes: cython.p_size_t
    joined: bytes
    out: bytes
    to: cython.p_char
    of: cython.p_char
    size: cython.size_t
    cap: cython.size_t
    n: cython.uint
    i: cython.uint
    if not 256 <= nbytes <= DICTIONARY_BYTES_MAX:
        raise UsageError(f"a dictionary has 256 to {DICTIONARY_BYTES_MAX} bytes, not {nbytes}")
    load_zdict(cython.address(api))
    parts = [bytes(memoryview(sample)) for sample in samples]
    parts = [part for part in parts if part]
    if len(parts) < SAMPLES_MIN:
        raise TrainingError(
            f"{len(parts)} samples are too few for a dictionary: give at least {SAMPLES_MIN} that are "
            "not empty, better 200"
        )
    joined = b"".join(parts)
    if len(joined) > SAMPLES_BYTES_MAX:
        raise UsageError(
            f"{len(joined)} bytes of samples are too many: give at most {SAMPLES_BYTES_MAX}, 200 samples "
            "are enough"
        )
    n = len(parts)
    sizes = cython.cast(cython.p_size_t, malloc(n * cython.sizeof(cython.size_t)))
    if sizes == cython.NULL:
        raise MemoryError("no memory for the sizes of samples")
    for i in range(n):
        sizes[i] = len(parts[i])
    parts = None
    try:
        cap = nbytes
        out = PyBytes_FromStringAndSize(cython.NULL, nbytes)
        to = PyBytes_AS_STRING(out)
        of = PyBytes_AS_STRING(joined)
        with cython.nogil:
            size = api.train(to, cap, of, cython.cast(SizesP, sizes), n)
    finally:
        free(sizes)
    if api.is_error(size):
        reason = cython.cast(bytes, api.error_name(size)).decode()
        raise TrainingError(
            f"no dictionary comes of these {n} samples of {len(joined)} bytes (libzstd: {reason}): give "
            "more of them, or larger ones, or compress without a dictionary"
        )
    return out[:size]
