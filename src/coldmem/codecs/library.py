"""Shared libraries, found when a codec first needs them.

Owns: the handles of the libraries; they stay open for the life of the process.
Guarantees: no header of these libraries is needed to build; a library that is missing, or too old
to have a function, is a `MissingLibraryError` that names the packages to install. liblz4 and
libzstd are looked for under their sonames, then inside the libblosc2 of the `blosc2` package, which
carries and exports both; so a machine without the system packages is served by that wheel.
Assumes: called with the GIL.
Locks: none; loading twice gives the same handle.
"""

import importlib.util
from pathlib import Path

import cython
from cython.cimports.posix.dlfcn import RTLD_LOCAL, RTLD_NOW, dlclose, dlopen, dlsym

from coldmem.errors import MissingLibraryError

LZ4 = (b"LZ4_sizeofState", b"LZ4_compress_fast_extState", b"LZ4_decompress_safe")
ZSTD = (
    b"ZSTD_createCCtx", b"ZSTD_freeCCtx", b"ZSTD_createDCtx", b"ZSTD_freeDCtx",
    b"ZSTD_compressCCtx", b"ZSTD_decompressDCtx", b"ZSTD_isError", b"ZSTD_getErrorCode",
    b"ZSTD_minCLevel", b"ZSTD_maxCLevel",
)
# Apart from ZSTD, so that a libzstd without one of these still serves plain zstd.
ZSTD_DICT = (
    b"ZSTD_createCDict_byReference", b"ZSTD_freeCDict", b"ZSTD_sizeof_CDict",
    b"ZSTD_createDDict_byReference", b"ZSTD_freeDDict", b"ZSTD_sizeof_DDict",
    b"ZSTD_CCtx_setParameter", b"ZSTD_DCtx_setParameter", b"ZSTD_CCtx_reset", b"ZSTD_CCtx_refCDict",
    b"ZSTD_compress2", b"ZSTD_decompress_usingDDict",
)
ZDICT = (
    b"ZDICT_trainFromBuffer", b"ZDICT_finalizeDictionary", b"ZDICT_getDictHeaderSize",
    b"ZDICT_isError", b"ZDICT_getErrorName",
)
ZDICT_FAST = cython.declare(bytes, b"ZDICT_trainFromBuffer_fastCover")
ZLIB = (
    b"deflateInit_", b"deflate", b"deflateReset", b"deflateEnd",
    b"inflateInit_", b"inflate", b"inflateReset", b"inflateEnd",
)
BLOSC2 = (b"blosc2_bitshuffle", b"blosc2_bitunshuffle")

# Tests put another soname here to see what happens without a library.
SONAMES = {
    "lz4": "liblz4.so.1", "zstd": "libzstd.so.1", "zlib": "libz.so.1", "blosc2": "libblosc2.so",
}


def blosc2_candidates() -> tuple:
    """Paths of libblosc2 inside the `blosc2` package, without importing it."""
    try:
        spec = importlib.util.find_spec("blosc2")
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        return ()
    return tuple(
        str(path)
        for folder in spec.submodule_search_locations
        for path in sorted(Path(folder).glob(f"lib*/{SONAMES['blosc2']}*"))
    )


def open_first(candidates, symbols, message):
    """The first library that opens and has all the symbols."""
    handle: cython.p_void
    why = []
    for candidate in candidates:
        path: bytes = candidate.encode()
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL)
        if handle == cython.NULL:
            why.append(f"{candidate} cannot be opened")
            continue
        missing = None
        for name in symbols:
            if dlsym(handle, cython.cast(bytes, name)) == cython.NULL:
                missing = name.decode()
                break
        if missing is None:
            return handle
        dlclose(handle)
        why.append(f"{candidate} has no {missing}")
    detail = "; ".join(why)
    raise MissingLibraryError(f"{message}{' (' + detail + ')' if detail else ''}")


def symbol(library, name):
    found: cython.p_void = dlsym(library, name)
    if found == cython.NULL:
        raise MissingLibraryError(f"a shared library has no function {name.decode()}")
    return found


def load_lz4(api):
    h: cython.p_void = open_first(
        (SONAMES["lz4"], *blosc2_candidates()), LZ4,
        "liblz4 is not installed: install the package liblz4-1 (Debian, Ubuntu) or lz4-libs "
        "(Fedora), or the Python package blosc2",
    )
    api.state_bytes = cython.cast(lz4_state_fn, symbol(h, LZ4[0]))
    api.compress = cython.cast(lz4_compress_fn, symbol(h, LZ4[1]))
    api.decompress = cython.cast(lz4_decompress_fn, symbol(h, LZ4[2]))
    return 0


def open_zstd(symbols):
    """A libzstd with these symbols, and those for plain frames."""
    return open_first(
        (SONAMES["zstd"], *blosc2_candidates()), ZSTD + symbols,
        f"libzstd is not installed{', or too old' if symbols else ''}: install the package libzstd1 "
        "(Debian, Ubuntu) or libzstd (Fedora), or the Python package blosc2",
    )


def fill_zstd(api, h):
    api.create_compressor = cython.cast(zstd_create_fn, symbol(h, ZSTD[0]))
    api.free_compressor = cython.cast(zstd_free_fn, symbol(h, ZSTD[1]))
    api.create_decompressor = cython.cast(zstd_create_fn, symbol(h, ZSTD[2]))
    api.free_decompressor = cython.cast(zstd_free_fn, symbol(h, ZSTD[3]))
    api.compress = cython.cast(zstd_compress_fn, symbol(h, ZSTD[4]))
    api.decompress = cython.cast(zstd_decompress_fn, symbol(h, ZSTD[5]))
    api.is_error = cython.cast(zstd_error_fn, symbol(h, ZSTD[6]))
    api.error_code = cython.cast(zstd_error_fn, symbol(h, ZSTD[7]))
    api.level_min = cython.cast(zstd_level_fn, symbol(h, ZSTD[8]))
    api.level_max = cython.cast(zstd_level_fn, symbol(h, ZSTD[9]))
    return 0


def load_zstd(api):
    return fill_zstd(api, open_zstd(()))


def load_zstd_dict(api, d):
    # Both tables are of one library: contexts made by one libzstd are nothing for another.
    h: cython.p_void = open_zstd(ZSTD_DICT)
    fill_zstd(api, h)
    d.create_cdict = cython.cast(zstd_create_cdict_fn, symbol(h, ZSTD_DICT[0]))
    d.free_cdict = cython.cast(zstd_free_fn, symbol(h, ZSTD_DICT[1]))
    d.sizeof_cdict = cython.cast(zstd_sizeof_fn, symbol(h, ZSTD_DICT[2]))
    d.create_ddict = cython.cast(zstd_create_ddict_fn, symbol(h, ZSTD_DICT[3]))
    d.free_ddict = cython.cast(zstd_free_fn, symbol(h, ZSTD_DICT[4]))
    d.sizeof_ddict = cython.cast(zstd_sizeof_fn, symbol(h, ZSTD_DICT[5]))
    d.set_compressor = cython.cast(zstd_set_fn, symbol(h, ZSTD_DICT[6]))
    d.set_decompressor = cython.cast(zstd_set_fn, symbol(h, ZSTD_DICT[7]))
    d.reset_compressor = cython.cast(zstd_reset_fn, symbol(h, ZSTD_DICT[8]))
    d.use_cdict = cython.cast(zstd_use_cdict_fn, symbol(h, ZSTD_DICT[9]))
    d.compress = cython.cast(zstd_decompress_fn, symbol(h, ZSTD_DICT[10]))
    d.decompress = cython.cast(zstd_decompress_ddict_fn, symbol(h, ZSTD_DICT[11]))
    return 0


def load_zdict(api):
    h: cython.p_void = open_zstd(ZDICT)
    api.train = cython.cast(zdict_train_fn, symbol(h, ZDICT[0]))
    api.finish = cython.cast(zdict_finish_fn, symbol(h, ZDICT[1]))
    api.header_bytes = cython.cast(zdict_header_fn, symbol(h, ZDICT[2]))
    api.is_error = cython.cast(zstd_error_fn, symbol(h, ZDICT[3]))
    api.error_name = cython.cast(zdict_name_fn, symbol(h, ZDICT[4]))
    api.train_fast = cython.cast(zdict_fast_fn, dlsym(h, ZDICT_FAST))
    return 0


def load_zlib(api):
    h: cython.p_void = open_first(
        (SONAMES["zlib"],), ZLIB,
        "libz is not installed: install the package zlib1g (Debian, Ubuntu) or zlib-ng-compat "
        "(Fedora)",
    )
    api.deflate_init = cython.cast(z_deflate_init_fn, symbol(h, ZLIB[0]))
    api.deflate = cython.cast(z_run_fn, symbol(h, ZLIB[1]))
    api.deflate_reset = cython.cast(z_stream_fn, symbol(h, ZLIB[2]))
    api.deflate_end = cython.cast(z_stream_fn, symbol(h, ZLIB[3]))
    api.inflate_init = cython.cast(z_inflate_init_fn, symbol(h, ZLIB[4]))
    api.inflate = cython.cast(z_run_fn, symbol(h, ZLIB[5]))
    api.inflate_reset = cython.cast(z_stream_fn, symbol(h, ZLIB[6]))
    api.inflate_end = cython.cast(z_stream_fn, symbol(h, ZLIB[7]))
    return 0


def load_blosc2(api):
    h: cython.p_void = open_first(
        blosc2_candidates(), BLOSC2, "libblosc2 is not installed: install the Python package blosc2"
    )
    api.bitshuffle = cython.cast(blosc2_shuffle_fn, symbol(h, BLOSC2[0]))
    api.bitunshuffle = cython.cast(blosc2_shuffle_fn, symbol(h, BLOSC2[1]))
    return 0
