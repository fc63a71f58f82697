"""The picker `auto`: what it chooses, what it remembers, when it looks again."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

from coldmem.codecs import get_codec
from coldmem.codecs.lz4 import Lz4Codec
from coldmem.codecs.picker import VARIANT_NAMES, AutoCodec

RNG = random.Random(3)
NOISE = RNG.randbytes(4096)
COUNTER = array("q", range(10**6, 10**6 + 512)).tobytes()
SMALL = array("q", (RNG.randrange(1000) for _ in range(512))).tobytes()
TEXT = Path(random.__file__).read_bytes()[:4096]


def new() -> AutoCodec:
    return AutoCodec(Lz4Codec())


def variant(codec: AutoCodec, data: bytes, hint: int) -> str | None:
    packed = codec.compress(data, hint)
    if packed is None:
        return None
    assert get_codec("auto").decompress(packed, len(data)) == data
    return AutoCodec.variant(packed)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (COUNTER, "delta8+bitshuffle8"),
        (SMALL, "bitshuffle8"),
        (array("i", (RNG.randrange(40) for _ in range(1024))).tobytes(), "bitshuffle4"),
        (bytes(RNG.random() < 0.5 for _ in range(4096)), "bitshuffle1"),
        (TEXT, "plain"),
    ],
    ids=["counter", "small integers", "categories", "bools", "text"],
)
def test_choice(data: bytes, expected: str) -> None:
    chosen = variant(new(), data, 1)
    assert chosen is not None
    assert chosen.removesuffix("+planes") == expected


def test_noise_is_left_raw_and_remembered() -> None:
    codec = new()
    assert codec.choice(9) is None
    assert codec.compress(NOISE, 9) is None
    choice = codec.choice(9)
    assert choice is not None
    assert choice[0] == "raw"
    assert codec.choice(10) is None


def test_beats_plain_lz4_on_numbers() -> None:
    lz4 = get_codec("lz4")
    for data in (COUNTER, SMALL):
        plain = lz4.compress(data)
        picked = new().compress(data)
        assert plain is not None
        assert picked is not None
        assert len(picked) < 0.6 * len(plain)


def test_the_choice_is_the_smallest_or_close_to_it() -> None:
    codec = new()
    for data in (COUNTER, SMALL, TEXT):
        variants = codec.variants(data)
        assert set(variants) <= set(VARIANT_NAMES)
        packed = codec.compress(data, hash(data) & 0xFFFF)
        assert packed is not None
        assert len(packed) <= min(map(len, variants.values())) * 1.05 + 32


def drive(codec: AutoCodec, data: bytes, hint: int, times: int) -> list[str | None]:
    """Units of one thread, in one context: compress() makes a context per call, this keeps one."""
    from coldmem.lab.codec_timing import time_codec

    time_codec(codec, data * times, len(data), len(data) * times, hint)
    choice = codec.choice(hint)
    return [choice[0] if choice else None]


def test_a_surprise_makes_it_look_again() -> None:
    codec = new()
    variant(codec, COUNTER, 4)
    first = codec.choice(4)
    assert first is not None
    assert "delta8" in first[0]
    # Far larger than expected: the choice changes with this very unit.
    assert variant(codec, TEXT, 4) == "plain"
    second = codec.choice(4)
    assert second is not None
    assert second[0] == "plain"


def test_surprises_are_ignored_more_and_more_in_a_mixed_region() -> None:
    codec = new()
    variant(codec, COUNTER, 4)
    looks = 0
    last = codec.choice(4)
    for i in range(2000):
        packed = codec.compress(TEXT if i % 2 else COUNTER, 4)
        assert packed is None or codec.decompress(packed, 4096) == (TEXT if i % 2 else COUNTER)
        now = codec.choice(4)
        looks += now != last
        last = now
    assert 1 <= looks < 100


def test_one_odd_unit_does_not_decide_for_a_region() -> None:
    codec = new()
    codec.compress(NOISE, 6)
    assert variant(codec, TEXT, 6) == "plain"
    assert {variant(codec, TEXT, 6) for _ in range(20)} == {"plain"}


def test_a_raw_region_is_looked_at_again() -> None:
    codec = new()
    for _ in range(4):  # the first, and three that agree
        codec.compress(NOISE, 6)
    assert drive(codec, COUNTER, 6, 16) == ["raw"]
    [choice] = drive(codec, COUNTER, 6, 33)
    assert choice is not None
    assert "delta8" in choice


def test_a_region_that_became_regular_is_noticed() -> None:
    codec = new()
    assert variant(codec, TEXT, 8) == "plain"
    regular = bytes(range(256)) * 16  # no surprise: it comes out smaller than expected
    assert drive(codec, regular, 8, 100) == ["plain"]
    mixed = array("d", (float(i) for i in range(512))).tobytes()
    before = codec.choice(8)
    drive(codec, mixed, 8, 1100)
    assert codec.choice(8) != before


def test_large_and_odd_units() -> None:
    for length in (2, 3, 15, 100, 4095, 4097, 5000, 65535, 65536, 1 << 20):
        data = (COUNTER * (length // 4096 + 1))[:length]
        codec = new()
        packed = codec.compress(data)
        if packed is not None:
            assert codec.decompress(packed, length) == data
        for name, output in codec.variants(data).items():
            assert len(output) <= length, name


def test_more_hints_than_the_table_holds() -> None:
    codec = new()
    for hint in range(40000):
        codec.compress(b"abcd" * 8, hint)
    for hint in range(39990, 40000):
        assert codec.choice(hint) is not None


def test_names() -> None:
    assert get_codec("auto").name == "auto"
    assert get_codec("auto+lz4").name == "auto"
    assert get_codec("auto+zstd:3").name == "auto+zstd:3"
    assert AutoCodec.variant(b"\xff") is None
