"""The checksum: what it must find, and that the compiled code is what its module describes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coldmem.zswap.checksum import checksum_of

MASK = (1 << 64) - 1
P1, P2, P3, P4 = 0x9E3779B97F4A7C15, 0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B
M1, M2 = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53


def reference(data: bytes, seed: int) -> int:
    """The description of the module, word for word, in integers of any size."""

    def step(lane: int, word: int) -> int:
        lane = (lane + word * P2) & MASK
        return ((lane << 31 | lane >> 33) & MASK) * P1 & MASK

    start = (seed + P3) * P1 & MASK ^ len(data) * P4 & MASK
    lanes = [(start + P1) & MASK, (start + P2) & MASK, start ^ P3, start ^ P4]
    padded = data + bytes(-len(data) % 8)
    words = [int.from_bytes(padded[i : i + 8], "little") for i in range(0, len(padded), 8)]
    whole = len(data) // 32 * 4
    for i, word in enumerate(words):
        lane = i % 4 if i < whole else 0
        lanes[lane] = step(lanes[lane], word)
    out = lanes[0]
    for lane in lanes[1:]:
        out = step(out, lane)
    out = (out ^ out >> 33) * M1 & MASK
    out = (out ^ out >> 33) * M2 & MASK
    return out ^ out >> 33


@given(st.binary(max_size=300), st.integers(0, MASK))
def test_is_what_the_module_says(data, seed):
    assert checksum_of(data, seed) == reference(data, seed)


@given(st.binary(min_size=1, max_size=100), st.integers(0, 15))
def test_does_not_depend_on_alignment(data, shift):
    buffer = bytearray(shift) + data
    assert checksum_of(memoryview(buffer)[shift:], 9) == checksum_of(data, 9)


@pytest.mark.parametrize("size", [1, 7, 8, 9, 31, 32, 33, 39, 64, 255, 256, 4096])
@pytest.mark.parametrize("content", ["zeros", "ones", "random"])
def test_every_single_bit_counts(size, content):
    data = {"zeros": bytearray(size), "ones": bytearray(b"\xff") * size,
            "random": bytearray(random.Random(size).randbytes(size))}[content]
    want = checksum_of(data, 3)
    for bit in range(size * 8):
        data[bit >> 3] ^= 1 << (bit & 7)
        assert checksum_of(data, 3) != want, bit
        data[bit >> 3] ^= 1 << (bit & 7)
    assert checksum_of(data, 3) == want


@given(st.lists(st.integers(0, MASK), min_size=2, max_size=64), st.data())
def test_any_change_inside_one_word_counts(words, data):
    at = data.draw(st.integers(0, len(words) - 1))
    other = data.draw(st.integers(0, MASK).filter(lambda w: w != words[at]))
    raw = b"".join(w.to_bytes(8, "little") for w in words)
    changed = raw[: at * 8] + other.to_bytes(8, "little") + raw[at * 8 + 8 :]
    assert checksum_of(raw) != checksum_of(changed)


@pytest.mark.parametrize("size", [64, 100, 512])
def test_every_swap_of_two_words_counts(size):
    data = random.Random(size).randbytes(size)
    want = checksum_of(data)
    words = [data[i : i + 8] for i in range(0, size - 7, 8)]
    tail = data[len(words) * 8 :]
    for i in range(len(words)):
        for j in range(i):
            words[i], words[j] = words[j], words[i]
            assert checksum_of(b"".join(words) + tail) != want, (i, j)
            words[i], words[j] = words[j], words[i]


@given(st.binary(min_size=16, max_size=600), st.data())
def test_swapped_words_of_any_data_count(data, draw):
    n = len(data) // 8
    i, j = draw.draw(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))
    a, b = data[i * 8 : i * 8 + 8], data[j * 8 : j * 8 + 8]
    swapped = bytearray(data)
    swapped[i * 8 : i * 8 + 8], swapped[j * 8 : j * 8 + 8] = b, a
    assert (checksum_of(swapped) == checksum_of(data)) == (a == b)


def test_every_pair_of_bits_counts_where_simple_lanes_are_blind():
    # A lane of "xor, rotate, multiply" misses a flip of one bit and of another 32 bytes later.
    data = bytearray(random.Random(5).randbytes(64))
    want = checksum_of(data)
    for one in range(64):
        for other in range(64):
            for bit in (one, 256 + other):
                data[bit >> 3] ^= 1 << (bit & 7)
            assert checksum_of(data) != want, (one, other)
            for bit in (one, 256 + other):
                data[bit >> 3] ^= 1 << (bit & 7)


def test_length_and_seed_count():
    sums = {checksum_of(bytes(n), seed) for n in range(200) for seed in range(50)}
    assert len(sums) == 200 * 50


def test_a_bit_flip_changes_about_half_of_the_sum():
    data = bytearray(random.Random(1).randbytes(200))
    want = checksum_of(data)
    changed = [0] * 64
    for bit in range(1600):
        data[bit >> 3] ^= 1 << (bit & 7)
        difference = checksum_of(data) ^ want
        data[bit >> 3] ^= 1 << (bit & 7)
        for i in range(64):
            changed[i] += difference >> i & 1
    # Each bit of the sum changes in 800 of 1600 cases; 5 standard deviations are 100.
    assert all(700 < count < 900 for count in changed), changed
