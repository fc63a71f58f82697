"""The picker's outputs are the same bytes however bits are shuffled, and each way reads the others'."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from array import array

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coldmem.codecs import get_codec
from coldmem.codecs.bitshuffle import WAYS, shuffle_ways
from coldmem.codecs.lz4 import Lz4Codec
from coldmem.codecs.picker import AutoCodec
from coldmem.errors import UsageError

SIZES = [512, 1024, 2048, 4096, 8192, 16384, 65536]


def made(way: str) -> AutoCodec:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLDMEM_SHUFFLE", way)
        return AutoCodec(Lz4Codec())


OURS = AutoCodec(Lz4Codec(), portable=True)
OTHERS = {way: made(way) for way in shuffle_ways() if way != "portable"}
pytestmark = pytest.mark.skipif(not OTHERS, reason="only the portable way is on this machine")


def numbers(seed: int, size: int) -> bytes:
    """Items of some width with some regularity: small, walking, repeated, rarely noise."""
    rng = random.Random(seed)
    code = rng.choice("BHIQ")
    top = 1 << 8 * array(code).itemsize
    spread = 1 << rng.randrange(1, 8 * array(code).itemsize + 1)
    start = rng.randrange(top)
    walking = rng.random() < 0.5
    change = rng.choice([0.001, 0.02, 0.3, 1.0])
    items = array(code)
    value = start
    for _ in range(size // items.itemsize):
        if rng.random() < change:
            step = rng.randrange(spread) - spread // 2
            value = (value + step if walking else start + step) % top
        items.append(value)
    return items.tobytes()


def check(data: bytes) -> None:
    expected = OURS.variants(data)
    for way, other in OTHERS.items():
        outputs = other.variants(data)
        assert outputs.keys() == expected.keys(), way
        for name, output in outputs.items():
            assert output == expected[name], (way, name)
            assert other.decompress(output, len(data)) == data, (way, name)
            assert OURS.decompress(output, len(data)) == data, (way, name)


@pytest.mark.parametrize("size", SIZES)
def test_numbers(size: int) -> None:
    kinds = set()
    for seed in range(40):
        data = numbers(seed, size)
        check(data)
        kinds |= OURS.variants(data).keys()
    assert any("delta" in name and "planes" in name for name in kinds)


@settings(deadline=None)
@given(
    item=st.binary(min_size=1, max_size=9),
    patches=st.lists(st.tuples(st.integers(0, 4095), st.binary(max_size=20)), max_size=40),
    size=st.sampled_from(SIZES),
)
@example(item=b"\0", patches=[], size=4096)
@example(item=b"\xff", patches=[(0, b"\0")], size=4096)
def test_bytes(item: bytes, patches: list[tuple[int, bytes]], size: int) -> None:
    data = bytearray((item * size)[:size])
    for at, patch in patches:
        patch = patch[: max(0, size - at)]
        data[at : at + len(patch)] = patch
    check(bytes(data[:size]))


def test_lengths_that_are_no_power_of_two() -> None:
    for length in (4095, 4097, 5000, 12345):
        check(numbers(length, 16384)[:length])


@pytest.mark.parametrize("seed", range(300))
def test_damage_is_seen_alike(seed: int) -> None:
    """Same answer to the same damaged bytes: what is accepted, and what it decodes to."""
    rng = random.Random(seed)
    data = numbers(seed, 4096)
    outputs = [o for name, o in OURS.variants(data).items() if name.endswith("planes")]
    if not outputs:
        return
    packed = bytearray(rng.choice(outputs))
    for _ in range(rng.randrange(1, 4)):
        packed[rng.randrange(len(packed))] = rng.randrange(256)
    del packed[rng.choice([len(packed), rng.randrange(2, len(packed))]) :]

    def answer(codec: AutoCodec) -> bytes | None:
        try:
            return codec.decompress(bytes(packed), 4096)
        except Exception as error:
            assert type(error).__module__ == "coldmem.errors"
            return None

    for way, other in OTHERS.items():
        assert answer(other) == answer(OURS), way


@pytest.mark.parametrize("way", WAYS)
def test_the_environment_chooses(way: str) -> None:
    """In a process of its own: a round trip of `auto` with one way, whatever this machine has."""
    code = (
        "from coldmem.codecs import get_codec; d = bytes(range(256)) * 16; c = get_codec('auto');"
        "p = c.compress(d); assert c.decompress(p, 4096) == d; print(p.hex())"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "COLDMEM_SHUFFLE": way},
        capture_output=True, text=True, check=True, timeout=60,
    )
    packed = get_codec("auto").compress(bytes(range(256)) * 16)
    assert packed is not None
    assert bytes.fromhex(out.stdout) == packed


def test_a_misspelt_way_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLDMEM_SHUFFLE", "avx1024")
    with pytest.raises(UsageError, match="choose one of portable"):
        AutoCodec(Lz4Codec())
