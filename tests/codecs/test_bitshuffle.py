"""Bit shuffle and delta against a plain Python reference; all ways byte for byte."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldmem.codecs.bitshuffle import (
    WAYS,
    bitshuffle,
    bitunshuffle,
    delta_decode,
    delta_encode,
    shuffle_ways,
)
from coldmem.codecs.filters import FilterCodec
from coldmem.codecs.lz4 import Lz4Codec
from coldmem.errors import InvalidSizeError

WIDTHS = [1, 2, 4, 8]
ways = pytest.mark.parametrize(
    "way",
    [
        pytest.param(
            way, marks=pytest.mark.skipif(way not in shuffle_ways(), reason="not on this machine")
        )
        for way in WAYS
    ],
)
LENGTHS = [0, 1, 7, 8, 63, 64, 65, 500, 511, 512, 513, 4095, 4096, 4099, 12345, 16384, 65536 + 24]


def reference(data: bytes, width: int) -> bytes:
    """Bit t of item i goes to bit i % 8 of byte i // 8 of plane t; the tail is copied."""
    items = len(data) // (8 * width) * 8
    out = bytearray(items * width)
    for plane in range(8 * width):
        for i in range(items):
            bit = data[i * width + plane // 8] >> (plane % 8) & 1
            out[plane * items // 8 + i // 8] |= bit << (i % 8)
    return bytes(out) + data[items * width :]


def reference_delta(data: bytes, width: int) -> bytes:
    out = b""
    last = 0
    for at in range(0, len(data) // width * width, width):
        item = int.from_bytes(data[at : at + width], "little")
        out += ((item - last) % (1 << 8 * width)).to_bytes(width, "little")
        last = item
    return out + data[len(out) :]


@ways
@pytest.mark.parametrize("width", WIDTHS)
def test_every_length_against_the_reference(width: int, way: str) -> None:
    rng = random.Random(width)
    for length in LENGTHS:
        data = rng.randbytes(length)
        shuffled = bitshuffle(data, width, way=way)
        if length <= 4099:
            assert shuffled == reference(data, width), length
        assert shuffled == bitshuffle(data, width, way="portable"), length
        assert bitunshuffle(shuffled, width, way=way) == data, length


@ways
@settings(deadline=None)
@given(data=st.binary(max_size=2000), width=st.sampled_from(WIDTHS))
def test_shuffle_property(way: str, data: bytes, width: int) -> None:
    shuffled = bitshuffle(data, width, way=way)
    assert shuffled == reference(data, width)
    assert bitunshuffle(shuffled, width, way=way) == data


@settings(deadline=None)
@given(data=st.binary(max_size=700), width=st.sampled_from(WIDTHS))
def test_delta_property(data: bytes, width: int) -> None:
    encoded = delta_encode(data, width)
    assert encoded == reference_delta(data, width)
    assert delta_decode(encoded, width) == data


@pytest.mark.parametrize("width", WIDTHS)
def test_delta_wraps(width: int) -> None:
    top = (1 << 8 * width) - 1
    data = b"".join(x.to_bytes(width, "little") for x in (0, top, 0, 1, top, top - 1, 0) * 20)
    assert delta_encode(data, width) == reference_delta(data, width)
    assert delta_decode(delta_encode(data, width), width) == data


def test_a_single_bit_lands_in_its_plane() -> None:
    data = bytearray(64 * 8)
    data[5 * 8 + 3] = 1 << 2  # item 5, bit 26
    out = bitshuffle(bytes(data), 8)
    assert [(i, b) for i, b in enumerate(out) if b] == [(26 * 8, 1 << 5)]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("with_delta", [False, True])
@pytest.mark.parametrize("length", [4096, 5003, 65536])
def test_written_with_one_read_with_the_other(width: int, with_delta: bool, length: int) -> None:
    data = b"".join((i * 37).to_bytes(8, "little") for i in range(length // 8 + 1))[:length]
    ours = FilterCodec(Lz4Codec(), width, with_delta, portable=True)
    other = FilterCodec(Lz4Codec(), width, with_delta)
    packed = ours.compress(data)
    assert packed is not None
    assert packed == other.compress(data)
    assert other.decompress(packed, length) == data
    assert ours.decompress(packed, length) == data


@pytest.mark.parametrize("width", [0, 3, 16, -1])
def test_widths_that_do_not_exist(width: int) -> None:
    with pytest.raises(InvalidSizeError):
        bitshuffle(b"", width)
