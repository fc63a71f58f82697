"""What every codec promises: round trips, sizes, and safety on damaged input."""

from __future__ import annotations

import array
import random
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from coldmem.codecs import Codec, CodecError, get_codec
from coldmem.errors import InvalidSizeError, UsageError
from coldmem.testing.codec_guard import guarded_call

NAMES = [
    "lz4", "lz4:8", "zstd", "zstd:-1", "zstd:3", "zlib", "zlib:1", "auto", "auto+zstd",
    "bitshuffle8+lz4", "bitshuffle4+lz4", "bitshuffle2+zstd", "bitshuffle1+lz4",
    "delta8+bitshuffle8+lz4", "delta4+bitshuffle4+lz4", "delta2+bitshuffle2+lz4",
    "delta1+bitshuffle1+zlib",
]
CODECS = {name: get_codec(name) for name in NAMES}


def corpora() -> dict[str, bytes]:
    rng = random.Random(1)
    text = Path(random.__file__).read_bytes()
    elf = Path(sys.executable).read_bytes()
    walk = array.array("i", [0])
    for _ in range(16383):
        walk.append(walk[-1] + rng.randint(-20, 20))
    return {
        "text": text[:4096],
        "elf": elf[:65536],
        "zeros": bytes(16384),
        "ones": b"\xff" * 4096,
        "counter": array.array("q", range(1000, 3000)).tobytes(),
        "walk_4k": walk.tobytes()[:4096],
        "walk_64k": walk.tobytes(),
        "doubles": array.array("d", (i / 7 for i in range(2048))).tobytes(),
        "bools": bytes(rng.random() < 0.05 for _ in range(4096)),
        "odd_length": text[:4099],
        "short": b"ab" * 50,
        "random": rng.randbytes(4096),
        "random_64k": rng.randbytes(65536),
    }


CORPORA = corpora()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("corpus", CORPORA)
def test_round_trip(name: str, corpus: str) -> None:
    data = CORPORA[corpus]
    packed = CODECS[name].compress(data, hint=hash(corpus) & 0xFFFFFFFF)
    if "random" in corpus:
        assert packed is None
    elif packed is not None:
        assert len(packed) < len(data)
        # A codec of its own: decompression may not lean on what the other remembers.
        assert get_codec(name).decompress(packed, len(data)) == data
    else:
        assert "shuffle" in name  # the wrong filter may spoil what lz4 alone could compress


@pytest.mark.parametrize("name", NAMES)
def test_buffers_of_other_types_and_alignment(name: str) -> None:
    codec = CODECS[name]
    data = memoryview(bytes(8000)).cast("d")
    packed = codec.compress(data)
    assert packed is not None
    assert codec.decompress(bytearray(packed), 8000) == bytes(8000)
    odd = memoryview(b"x" + CORPORA["walk_64k"])[1:]
    packed = codec.compress(odd, hint=77)
    if packed is not None:
        assert codec.decompress(memoryview(b"xyz" + packed)[3:], len(odd)) == odd


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("data", [b"", b"x"])
def test_nothing_to_gain(name: str, data: bytes) -> None:
    assert CODECS[name].compress(data) is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 1, 4095, 4097, 70000])
def test_wrong_size_is_an_error(name: str, size: int) -> None:
    codec = CODECS[name]
    packed = codec.compress(CORPORA["zeros"][:4096], hint=5)
    assert packed is not None
    with pytest.raises(CodecError):
        codec.decompress(packed, size)


@pytest.mark.parametrize("name", NAMES)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.binary(min_size=1, max_size=200),
    length=st.integers(2, 20000),
    step=st.integers(0, 255),
    capacity=st.integers(0, 20000),
)
@example(seed=b"a", length=4096, step=0, capacity=4095)
def test_any_bytes_round_trip_between_guard_pages(
    name: str, seed: bytes, length: int, step: int, capacity: int
) -> None:
    # The seed repeated, with a drift: from constant to nearly random.
    data = bytes((b + i // len(seed) * step) & 0xFF for i, b in enumerate(seed * length))[:length] \
        if len(seed) * length < 40000 else (seed * (length // len(seed) + 1))[:length]
    codec = CODECS[name]
    size, packed = guarded_call(codec, data, capacity, True, max(length, capacity), len(seed))
    assert 0 <= size <= capacity
    if size:
        assert guarded_call(codec, packed, length, False) == (length, data)


def damaged(rng: random.Random, packed: bytes) -> bytes:
    out = bytearray(packed)
    kind = rng.randrange(4)
    if kind == 0:
        del out[rng.randrange(len(out)) :]
    elif kind == 1:
        out += rng.randbytes(rng.randrange(1, 40))
    else:
        for _ in range(rng.randrange(1, 6)):
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1 << 32), corpus=st.sampled_from(sorted(CORPORA)))
def test_damage_stays_inside_the_buffers(name: str, seed: int, corpus: str) -> None:
    rng = random.Random(seed)
    data = CORPORA[corpus]
    codec = CODECS[name]
    packed = codec.compress(data, hint=seed)
    if packed is None:
        return
    for _ in range(10):
        capacity = rng.choice([len(data), len(data), 4096, rng.randrange(0, 70000)])
        # A write or read outside ends the process; a result outside is an InternalError.
        guarded_call(codec, damaged(rng, packed), capacity, False)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=600), first=st.integers(0, 18), capacity=st.integers(0, 9000))
def test_noise_stays_inside_the_buffers(
    name: str, data: bytes, first: int, capacity: int
) -> None:
    guarded_call(CODECS[name], data, capacity, False)
    if name.startswith("auto"):  # past the check of the first two bytes
        guarded_call(CODECS[name], bytes([first, 12]) + data, 4096, False)


@pytest.mark.parametrize("name", ["auto", "bitshuffle8+lz4"])
def test_units_larger_than_the_context_are_refused(name: str) -> None:
    data = CORPORA["counter"]
    assert guarded_call(name, data, len(data), True, unit_bytes=4096)[0] < 0
    _, packed = guarded_call(name, data, len(data), True)
    assert guarded_call(name, packed, len(data), False, unit_bytes=4096)[0] < 0


@pytest.mark.parametrize("name", NAMES)
def test_threads_share_a_codec(name: str) -> None:
    codec = get_codec(name)
    failures = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for i in range(60):
            data = CORPORA[rng.choice(sorted(CORPORA))]
            packed = codec.compress(data, hint=i % 3)  # few hints: they overwrite each other's choice
            if packed is not None and codec.decompress(packed, len(data)) != data:
                failures.append((number, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_raw_never_compresses() -> None:
    codec = get_codec("raw")
    assert codec.compress(bytes(4096)) is None
    assert codec.decompress(b"abc", 3) == b"abc"
    with pytest.raises(CodecError):
        codec.decompress(b"abc", 2)


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


def test_hint_must_be_an_unsigned_word() -> None:
    get_codec("auto").compress(bytes(100), hint=(1 << 64) - 1)
    with pytest.raises(OverflowError):
        get_codec("auto").compress(bytes(100), hint=-1)
