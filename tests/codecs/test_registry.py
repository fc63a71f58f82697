"""Names of codecs, and libraries that are not there."""

from __future__ import annotations

import zlib

import pytest

from coldmem.codecs import (
    MissingLibraryError,
    PythonCodec,
    UnknownCodecError,
    available_codecs,
    get_codec,
    library,
)
from coldmem.codecs.deflate import PythonZlib

DATA = b"".join(i.to_bytes(8, "little") for i in range(512))


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("lz4", "lz4"), ("lz4:1", "lz4"), ("lz4:9", "lz4:9"),
        ("zstd", "zstd"), ("zstd:1", "zstd"), ("zstd:-5", "zstd:-5"), ("zstd:19", "zstd:19"),
        ("zlib", "zlib"), ("zlib:6", "zlib"), ("zlib:9", "zlib:9"), ("raw", "raw"),
        ("auto", "auto"), ("auto+zstd", "auto+zstd"),
        ("bitshuffle8+lz4", "bitshuffle8+lz4"), ("bitshuffle1+zstd:3", "bitshuffle1+zstd:3"),
        ("delta2+bitshuffle2+zlib", "delta2+bitshuffle2+zlib"),
    ],
)
def test_names(name: str, canonical: str) -> None:
    codec = get_codec(name)
    assert codec.name == canonical
    assert get_codec(codec) is codec
    assert get_codec(codec.name).name == canonical


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lz5", "Did you mean lz4?"), ("LZ4", "Did you mean lz4?"), ("ztsd", "zstd"),
        ("lz4:", "whole number"), ("lz4:x", "whole number"), ("lz4:0", "1 to"), ("lz4:-1", "1 to"),
        ("zstd:0", "levels"), ("zstd:99", "levels"), ("zlib:10", "levels"), ("raw:1", "raw"),
        ("auto:1", "auto"), ("auto+", "auto"), ("+lz4", "lz4"), ("", "Known: lz4"),
        ("bitshuffle3+lz4", "1, 2, 4 and 8"), ("bitshuffle8", "bitshuffle8+lz4"),
        ("delta8+lz4", "before bitshuffle8"), ("delta4+bitshuffle8+lz4", "before bitshuffle4"),
        ("lz4+zstd", "Known"),
    ],
)
def test_unknown_names_say_what_there_is(name: str, says: str) -> None:
    with pytest.raises(UnknownCodecError) as caught:
        get_codec(name)
    assert says in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_available() -> None:
    names = available_codecs()
    assert {"lz4", "zstd", "zlib", "raw", "auto", "bitshuffle8+lz4"} <= set(names)
    for name in names:
        assert get_codec(name).name == name


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in library.SONAMES:
        monkeypatch.setitem(library.SONAMES, name, f"libcoldmem-no-such-{name}.so.1")


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        ("lz4", ["liblz4-1", "lz4-libs"]), ("zstd", ["libzstd1", "libzstd"]),
        ("auto", ["liblz4-1", "lz4-libs"]), ("bitshuffle8+zstd", ["libzstd1"]),
    ],
)
def test_missing_library_names_the_package(
    no_libraries: None, name: str, packages: list[str]
) -> None:
    with pytest.raises(MissingLibraryError) as caught:
        get_codec(name)
    for package in packages:
        assert package in str(caught.value)


def test_available_without_libraries(no_libraries: None) -> None:
    assert available_codecs() == ["zlib", "raw"]


def test_a_library_without_our_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.SONAMES, "lz4", "libc.so.6")
    monkeypatch.setitem(library.SONAMES, "blosc2", "no-such")
    with pytest.raises(MissingLibraryError, match="libc.so.6 has no LZ4_"):
        get_codec("lz4")


def test_lz4_and_zstd_out_of_libblosc2(monkeypatch: pytest.MonkeyPatch) -> None:
    if not library.blosc2_candidates():
        pytest.skip("the blosc2 package is not here")
    packed = {name: get_codec(name).compress(DATA) for name in ("lz4", "zstd")}
    monkeypatch.setitem(library.SONAMES, "lz4", "no-such")
    monkeypatch.setitem(library.SONAMES, "zstd", "no-such")
    for name, data in packed.items():
        assert data is not None
        assert get_codec(name).decompress(data, len(DATA)) == DATA


def test_filters_without_libblosc2(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "delta8+bitshuffle8+lz4"
    packed = get_codec(name).compress(DATA)
    monkeypatch.setitem(library.SONAMES, "blosc2", "no-such")
    assert library.blosc2_candidates() == ()
    assert packed is not None
    assert get_codec(name).decompress(packed, len(DATA)) == DATA
    assert get_codec(name).compress(DATA) == packed


def test_zlib_without_libz_is_pythons(no_libraries: None) -> None:
    codec = get_codec("zlib:9")
    assert isinstance(codec, PythonCodec)
    assert codec.name == "zlib:9"
    packed = codec.compress(DATA)
    assert packed == zlib.compress(DATA, 9)
    assert codec.decompress(packed, len(DATA)) == DATA


@pytest.mark.parametrize("level", [1, 6, 9])
def test_zlib_is_zlibs_format(level: int) -> None:
    native = get_codec(f"zlib:{level}")
    python = PythonCodec(PythonZlib(level))
    packed = native.compress(DATA)
    assert packed is not None
    assert zlib.decompress(packed) == DATA
    assert python.decompress(packed, len(DATA)) == DATA
    assert native.decompress(zlib.compress(DATA, level), len(DATA)) == DATA
