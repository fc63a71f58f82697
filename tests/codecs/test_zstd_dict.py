"""Zstandard with a dictionary: smaller, exact, and inside its buffers whatever comes."""

from __future__ import annotations

import gc
import random
import threading
import weakref

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from coldmem.codecs import CodecError, MissingLibraryError, UnknownCodecError, get_codec, library
from coldmem.codecs.zstd_dict import ZstdDictCodec, train_dictionary
from coldmem.errors import TrainingError, UsageError
from coldmem.testing.codec_guard import guarded_call


def record(i: int) -> bytes:
    rng = random.Random(i)
    return (
        f'{{"id": {i}, "user": "user{rng.randrange(1000)}", "score": {rng.random()}, '
        f'"active": {"true" if i % 2 else "false"}, "address": {{"street": "{rng.randrange(300)} Main '
        f'Street", "city": "{rng.choice(["Berlin", "Paris", "Rome"])}"}}}}'
    ).encode()


RECORDS = [record(i) for i in range(300)]
OTHERS = [record(i) for i in range(1000, 1100)]
DICTIONARY = train_dictionary(RECORDS, 8192)
LEVELS = [1, 3, -1]
CODECS = {level: ZstdDictCodec(DICTIONARY, level) for level in LEVELS}


def packed_bytes(codec: object, values: list[bytes]) -> int:
    return sum(len(codec.compress(v) or v) for v in values)  # type: ignore[attr-defined]


@pytest.mark.parametrize("level", LEVELS)
def test_small_alike_values(level: int) -> None:
    codec = CODECS[level]
    assert packed_bytes(codec, OTHERS) < packed_bytes(get_codec(f"zstd:{level}"), OTHERS) / 2
    for value in OTHERS:
        packed = codec.compress(value)
        assert packed is not None
        assert ZstdDictCodec(DICTIONARY, level).decompress(packed, len(value)) == value


def test_frames_say_nothing_that_the_caller_knows() -> None:
    """A byte of flags, all off, a byte for the window, three for the block; no magic number."""
    for value in (*OTHERS, bytes(5000)):
        packed = CODECS[1].compress(value)
        assert packed is not None and packed[0] == 0 and packed[:4] != b"\x28\xb5\x2f\xfd"
        last_block = int.from_bytes(packed[2:5], "little")
        assert last_block & 1
        if last_block >> 1 & 3 == 2:
            assert len(packed) == 5 + (last_block >> 3)


def test_any_content_is_a_dictionary() -> None:
    codec = ZstdDictCodec(b"".join(RECORDS[:20]))
    assert packed_bytes(codec, OTHERS) < packed_bytes(get_codec("zstd"), OTHERS)
    for value in OTHERS:
        packed = codec.compress(value)
        assert packed is not None and codec.decompress(packed, len(value)) == value


def test_a_bytearray_that_changes_later() -> None:
    raw = bytearray(DICTIONARY)
    codec = ZstdDictCodec(raw)  # type: ignore[arg-type]
    raw[:] = bytes(len(raw))
    assert codec.dictionary == DICTIONARY
    packed = codec.compress(OTHERS[0])
    assert packed is not None and CODECS[1].decompress(packed, len(OTHERS[0])) == OTHERS[0]


@pytest.mark.parametrize("level", LEVELS)
@settings(max_examples=150, deadline=None)
@given(
    parts=st.lists(st.one_of(st.binary(max_size=300), st.sampled_from(RECORDS)), max_size=200),
    capacity=st.integers(0, 70000),
)
@example(parts=[bytes(200000)], capacity=100)
def test_any_bytes_round_trip_between_guard_pages(
    level: int, parts: list[bytes], capacity: int
) -> None:
    data = b"".join(parts)
    codec = CODECS[level]
    size, packed = guarded_call(codec, data, capacity, True, max(len(data), 1))
    assert 0 <= size <= capacity
    if size:
        assert guarded_call(codec, packed, len(data), False) == (len(data), data)


def test_room_for_all_but_a_byte() -> None:
    for value in OTHERS[:20]:
        size, packed = guarded_call(CODECS[1], value, 4096, True)
        # libzstd wants a few bytes more than it uses; with too few it is "incompressible".
        assert guarded_call(CODECS[1], value, size + 16, True) == (size, packed)
        assert guarded_call(CODECS[1], value, size - 1, True)[0] == 0
        for capacity in (0, 1, len(value) // 2, len(value) - 1):
            assert guarded_call(CODECS[1], packed, capacity, False)[0] < 0
        with pytest.raises(CodecError):
            CODECS[1].decompress(packed, len(value) - 1)
        with pytest.raises(CodecError):
            CODECS[1].decompress(packed, len(value) + 1)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 1 << 32), level=st.sampled_from(LEVELS), cap=st.integers(0, 9000))
def test_damage_stays_inside_the_buffers(seed: int, level: int, cap: int) -> None:
    rng = random.Random(seed)
    value = b"".join(rng.choices(OTHERS, k=rng.choice([1, 1, 5, 40])))
    packed = bytearray(CODECS[level].compress(value) or b"")
    for _ in range(rng.randrange(1, 5)):
        packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
    cut = rng.randrange(len(packed) + 1) if rng.random() < 0.3 else len(packed)
    for capacity in (len(value), cap):
        guarded_call(CODECS[level], bytes(packed[:cut]), capacity, False)


@pytest.mark.parametrize(
    "value", [OTHERS[0], OTHERS[1] * 5, bytes(3000), random.Random(1).randbytes(99)]
)
def test_a_frame_ends_where_the_data_end(value: bytes) -> None:
    """libzstd 1.5.4 alone reads past the end of frames without magic that have 1 to 3 bytes."""
    size, packed = guarded_call(CODECS[1], value, 8192, True)
    assert size and guarded_call(CODECS[1], packed, len(value), False) == (len(value), value)
    for cut in range(size):
        assert guarded_call(CODECS[1], packed[:cut], len(value), False)[0] < 0
    magic, skippable = b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18" + bytes(4)
    for more in (b"\0", b"ab", b"abc", b"abcd", packed, magic, skippable):
        assert guarded_call(CODECS[1], packed + more, len(value) + 9000, False)[0] < 0


def test_lengths_that_lie() -> None:
    for n in range(6, 40):
        for size in (n - 5, n - 4, n - 1, n, (1 << 21) - 1):
            for kind in range(4):
                for last in (0, 1):
                    header = (size << 3 | kind << 1 | last).to_bytes(3, "little")
                    guarded_call(CODECS[1], b"\0\0" + header + bytes(n - 5), 9000, False)


def test_flags_that_we_never_set() -> None:
    _, packed = guarded_call(CODECS[1], OTHERS[0], 4096, True)
    for flags in range(1, 256):  # libzstd itself ignores one of them
        changed = bytes([flags]) + packed[1:]
        assert guarded_call(CODECS[1], changed, len(OTHERS[0]), False)[0] < 0


def test_many_blocks() -> None:
    value = b"".join(record(i) + random.Random(i).randbytes(i % 200) for i in range(2000))
    assert len(value) > 300_000
    for data in (value, value + bytes(400_000), random.Random(1).randbytes(200_000) + value):
        size, packed = guarded_call(CODECS[1], data, len(data), True)
        assert size and guarded_call(CODECS[1], packed, len(data), False) == (len(data), data)
        assert guarded_call(CODECS[1], packed + b"x", len(data) + 1, False)[0] < 0


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400), capacity=st.integers(0, 9000))
def test_noise_stays_inside_the_buffers(data: bytes, capacity: int) -> None:
    guarded_call(CODECS[1], data, capacity, False)
    guarded_call(CODECS[1], b"\x00\x00" + data, capacity, False)


def test_another_dictionary_stays_inside_the_buffers() -> None:
    other = ZstdDictCodec(train_dictionary([bytes(reversed(r)) for r in RECORDS], 4096))
    for value in OTHERS:
        packed = CODECS[1].compress(value)
        assert packed is not None
        assert guarded_call(other, packed, len(value), False)[1] != value
        guarded_call(ZstdDictCodec(b"12345678"), packed, len(value), False)


def test_a_damaged_dictionary_is_refused_or_kept_apart() -> None:
    rng = random.Random(1)
    refused = 0
    for _ in range(200):
        broken = bytearray(DICTIONARY)
        broken[8 + rng.randrange(120)] ^= 1 << rng.randrange(8)
        try:
            codec = ZstdDictCodec(bytes(broken))
        except CodecError as error:
            assert "train it again" in str(error)
            refused += 1
            continue
        packed = CODECS[1].compress(OTHERS[0])
        assert packed is not None
        guarded_call(codec, packed, len(OTHERS[0]), False)
    assert refused


@pytest.mark.tsan
def test_threads_share_a_dictionary(stress_seconds: float) -> None:
    codec = ZstdDictCodec(DICTIONARY)
    wrong: list[int] = []

    def work(number: int) -> None:
        rng = random.Random(number)
        for _ in range(int(400 * stress_seconds)):
            value = rng.choice(OTHERS) * rng.choice([1, 1, 3])
            packed = codec.compress(value)
            if packed is None or codec.decompress(packed, len(value)) != value:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    train_dictionary(RECORDS, 4096)  # without the GIL, beside the others
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_is_told() -> None:
    small, large = ZstdDictCodec(b"abcdefgh"), ZstdDictCodec(bytes(range(256)) * 4096)
    assert small.dictionary_bytes > 20_000
    assert large.dictionary_bytes > len(large.dictionary) + small.dictionary_bytes / 2
    assert CODECS[1].level == 1 and CODECS[1].name == "zstd-dict:1"


@pytest.mark.parametrize("dictionary", [b"", b"1234567", bytes((1 << 24) + 1)])
def test_sizes_of_dictionaries(dictionary: bytes) -> None:
    with pytest.raises(UsageError, match="8 to"):
        ZstdDictCodec(dictionary)


def test_levels() -> None:
    for level in (0, 99):
        with pytest.raises(UnknownCodecError, match="levels are"):
            ZstdDictCodec(DICTIONARY, level)
    with pytest.raises(UsageError, match="another codec"):
        CODECS[1].__init__(RECORDS[0])  # type: ignore[misc]


@pytest.mark.parametrize(
    "samples", [[], [b"x" * 100] * 7, [b""] * 300, [b"a"] * 8], ids=["none", "few", "empty", "tiny"]
)
def test_samples_that_give_nothing(samples: list[bytes]) -> None:
    with pytest.raises(TrainingError, match="give"):
        train_dictionary(samples)


@pytest.mark.parametrize("nbytes", [0, 255, 1 << 25])
def test_sizes_to_train(nbytes: int) -> None:
    with pytest.raises(UsageError, match="256 to"):
        train_dictionary(RECORDS, nbytes)


def test_training() -> None:
    samples = [memoryview(r) for r in RECORDS]
    assert train_dictionary(samples, 8192) == DICTIONARY
    assert len(train_dictionary(RECORDS, 2048)) <= 2048
    # The level is that of the entropy tables in it.
    at_3 = train_dictionary(RECORDS, 8192, 3)
    assert at_3 != DICTIONARY
    assert packed_bytes(CODECS[1], OTHERS) < packed_bytes(ZstdDictCodec(at_3, 1), OTHERS) * 1.01


def test_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(library.SONAMES, "zstd", "no-such")
    monkeypatch.setitem(library.SONAMES, "blosc2", "no-such")
    for make in (lambda: ZstdDictCodec(DICTIONARY), lambda: train_dictionary(RECORDS)):
        with pytest.raises(MissingLibraryError, match="libzstd1"):
            make()


def test_the_library_inside_blosc2_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    if not library.blosc2_candidates():
        pytest.skip("the blosc2 package is not here")
    monkeypatch.setitem(library.SONAMES, "zstd", "no-such")
    codec = ZstdDictCodec(train_dictionary(RECORDS, 8192))
    theirs, ours = ZstdDictCodec(DICTIONARY), CODECS[1]
    for value in OTHERS:
        for one, other in ((theirs, ours), (ours, theirs), (codec, codec)):
            packed = one.compress(value)
            assert packed is not None and other.decompress(packed, len(value)) == value


def test_collected_with_its_cycle() -> None:
    class Holder(ZstdDictCodec):
        pass

    for _ in range(20):
        codec = Holder(train_dictionary(RECORDS[:50], 512))
        codec.me = codec  # type: ignore[attr-defined]
        assert codec.compress(OTHERS[0])
        gone = weakref.ref(codec)
        del codec
        gc.collect()
        assert gone() is None
