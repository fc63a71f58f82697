"""What every codec promises: round trips, sizes, and safety on damaged input."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from coldmem.codecs import Codec, get_codec
from coldmem.errors import CodecError, InvalidSizeError, UsageError

NAMES = ["lz4", "lz4:8", "zstd", "zstd:-1", "zstd:3"]


def corpora() -> dict[str, bytes]:
    rng = random.Random(1)
    text = Path(random.__file__).read_bytes()
    elf = Path(sys.executable).read_bytes()
    return {
        "text": text[:4096],
        "elf": elf[:65536],
        "zeros": bytes(16384),
        "counter": b"".join(i.to_bytes(8, "little") for i in range(1000, 3000)),
        "odd_length": text[:4099],
        "short": b"ab" * 50,
        "random": rng.randbytes(4096),
    }


CORPORA = corpora()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_round_trip(name: str, corpus: str) -> None:
    data = CORPORA[corpus]
    codec = get_codec(name)
    packed = codec.compress(data)
    if corpus == "random":
        assert packed is None
    else:
        assert packed is not None
        assert len(packed) < len(data)
        assert codec.decompress(packed, len(data)) == data


@pytest.mark.parametrize("name", NAMES)
def test_buffers_of_other_types(name: str) -> None:
    codec = get_codec(name)
    data = memoryview(bytes(8000)).cast("d")
    packed = codec.compress(data)
    assert packed is not None
    assert codec.decompress(bytearray(packed), 8000) == bytes(8000)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"", b"x"])
def test_nothing_to_gain(name: str, data: bytes) -> None:
    assert get_codec(name).compress(data) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 70000])
def test_wrong_size_is_an_error(name: str, size: int) -> None:
    codec = get_codec(name)
    packed = codec.compress(CORPORA["text"])
    assert packed is not None
    with pytest.raises(CodecError):
        codec.decompress(packed, size)


def test_raw_never_compresses() -> None:
    codec = get_codec("raw")
    assert codec.compress(bytes(4096)) is None
    assert codec.decompress(b"abc", 3) == b"abc"


def test_base_class_is_not_a_codec() -> None:
    with pytest.raises(UsageError):
        Codec().compress(b"abc")
    with pytest.raises(UsageError):
        Codec().decompress(b"abc", 3)


def test_sizes_out_of_range() -> None:
    with pytest.raises(InvalidSizeError):
        get_codec("lz4").decompress(b"abc", -1)
    with pytest.raises(InvalidSizeError):
        get_codec("lz4").decompress(b"abc", 1 << 40)
