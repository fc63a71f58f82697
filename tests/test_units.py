"""Quantities as text."""

import pytest

from coldmem.errors import InvalidQuantityError
from coldmem.units import format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("64K", 65536), ("64 kib", 65536), ("1GiB", 1 << 30), ("1.5M", 3 << 19),
     ("512MB", 512 << 20), ("2T", 2 << 40), ("100B", 100), (12, 12),
     ("9007199254740993", 9007199254740993)],
)
def test_bytes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "K", "-1", "1X", "1e3", "25%", "0.3", "1.2.3M", None, 1.5, True,
                                  -4, "64K K"])
def test_refused(text):
    with pytest.raises(InvalidQuantityError):
        parse_bytes(text)


def test_percent_of_a_whole():
    assert parse_bytes("25%", 400) == 100
    assert parse_bytes("100%", 7) == 7
    with pytest.raises(InvalidQuantityError):
        parse_bytes("101%", 400)


def test_format():
    assert [format_bytes(n) for n in (0, 1023, 1536, 3 << 30, 5 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "3.0 GiB", "5.0 TiB"
    ]
