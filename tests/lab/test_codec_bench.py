"""The codec benchmark, at its smallest: it must run and give whole rows."""

from __future__ import annotations

import pytest

from coldmem.errors import InvalidSizeError
from coldmem.lab.codec_bench import run, summarise
from coldmem.lab.codec_timing import time_codec
from coldmem.lab.numeric_corpora import CORPORA, make_corpus


def test_rows() -> None:
    rows = run(0, corpora=["int64_range", "int32_random"], unit_bytes=[4096], corpus_bytes=1 << 16)
    assert [(row["corpus"], row["codec"]) for row in rows] == [
        ("int64_range", "lz4"), ("int64_range", "auto"),
        ("int32_random", "lz4"), ("int32_random", "auto"),
    ]
    for row in rows:
        assert row["unit_bytes"] == 4096
        assert row["ratio"] >= 1
        assert row["compress_mb_per_s"] > 0
        assert row["decompress_mb_per_s"] > 0
    lz4, auto = rows[0], rows[1]
    assert auto["stored_bytes"] < lz4["stored_bytes"]
    by_codec = {row["codec"]: row for row in summarise(rows)}
    assert by_codec["lz4"]["stored_ratio"] == 1
    assert by_codec["auto"]["stored_ratio"] < 1


@pytest.mark.parametrize("name", CORPORA)
def test_corpora_are_the_same_every_time(name: str) -> None:
    data = make_corpus(name, 1 << 14)
    assert len(data) == 1 << 14
    assert data == make_corpus(name, 1 << 14)


def test_numbers_are_stored_in_fewer_bytes_than_lz4_needs() -> None:
    stored = {"lz4": 0, "auto": 0}
    for name in CORPORA:
        data = make_corpus(name, 1 << 17)
        for codec in stored:
            stored[codec] += time_codec(codec, data, 4096, 1 << 20, 1)["stored_bytes"]
    assert stored["auto"] <= 0.6 * stored["lz4"]


def test_data_must_be_whole_units() -> None:
    with pytest.raises(InvalidSizeError):
        time_codec("lz4", bytes(5000), 4096, 1 << 20, 1)
