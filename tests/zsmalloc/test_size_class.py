"""Geometry against oracle tables that were computed apart from this code."""

import csv
from pathlib import Path

import pytest

from coldmem.errors import InvalidSizeError, UsageError
from coldmem.zsmalloc.size_class import SizeClasses

ORACLES = Path(__file__).parent / "oracles"


@pytest.mark.parametrize(
    ("name", "chain", "rule"),
    [
        ("size_classes_chain4", 4, "waste"),
        ("size_classes_chain8", 8, "waste"),
        ("size_classes_chain16", 16, "waste"),
        ("size_classes_chain8_older_rule", 8, "percent"),
    ],
)
def test_tables(name, chain, rule):
    with open(ORACLES / f"{name}.csv") as file:
        expected = [tuple(map(int, row)) for row in list(csv.reader(file))[1:]]
    got = [
        (c.index, c.size, c.units_per_zspage, c.objs_per_zspage, c.waste_bytes)
        for c in SizeClasses(4096, chain, rule).classes
    ]
    assert got == expected


@pytest.mark.parametrize(
    ("rule", "counts"),
    [
        ("waste", [69, 86, 94, 110, 119, 136, 141, 153, 159, 173, 179, 186, 192]),
        ("percent", [69, 86, 93, 112, 123, 140, 143, 159, 164, 180, 183, 188, 191]),
    ],
)
def test_number_of_classes_for_chains_4_to_16(rule, counts):
    assert [len(SizeClasses(4096, chain, rule).classes) for chain in range(4, 17)] == counts


@pytest.mark.parametrize(
    ("payload", "index", "size", "units", "objs"),
    [
        (24, 0, 32, 1, 128),
        (25, 1, 48, 3, 256),
        (1024, 64, 1056, 8, 31),
        (2048, 134, 2176, 8, 15),
        (2990, 190, 3072, 3, 4),
        (3624, 225, 3632, 8, 9),
        (3625, 254, 4096, 1, 1),
        (4096, 254, 4096, 1, 1),
    ],
)
def test_lookup_counts_the_header(payload, index, size, units, objs):
    """Also the regression trap of the kernel before 2026: a lookup without the header."""
    c = SizeClasses(4096, 8).lookup(payload)
    assert (c.index, c.size, c.units_per_zspage, c.objs_per_zspage) == (index, size, units, objs)
    assert c.huge == (objs == 1)


def test_100_bytes_go_to_class_5():
    assert SizeClasses(4096, 8).lookup(100).index == 5


@pytest.mark.parametrize(("chain", "watermark"), [(4, 3264), (8, 3632), (16, 3840)])
def test_huge_class_size(chain, watermark):
    classes = SizeClasses(4096, chain)
    assert classes.huge_class_size == watermark - 7
    assert not classes.lookup(classes.huge_class_size - 1).huge
    assert classes.lookup(classes.huge_class_size).huge


@pytest.mark.parametrize(("chain", "overhead"), [(1, 1.295), (2, 1.166), (4, 1.076), (8, 1.031),
                                                 (16, 1.015)])
def test_overhead_of_full_zspages(chain, overhead):
    classes = SizeClasses(4096, chain)
    per_object = (
        c.units_per_zspage * 4096 / c.objs_per_zspage for c in map(classes.lookup, range(1, 4097))
    )
    assert sum(per_object) / sum(range(1, 4097)) == pytest.approx(overhead, abs=0.0006)


@pytest.mark.parametrize("unit", [4096, 16384, 65536])
@pytest.mark.parametrize("chain", range(1, 17))
@pytest.mark.parametrize("rule", ["waste", "percent"])
def test_every_payload_fits_and_shapes_are_sound(unit, chain, rule):
    classes = SizeClasses(unit, chain, rule)
    assert classes.step == unit // 256
    for c in classes.classes:
        assert 1 <= c.units_per_zspage <= chain
        assert c.objs_per_zspage * c.size <= c.units_per_zspage * unit
        assert c.objs_per_zspage < 1 << 15
        assert classes.class_of_slot[c.index] == c.index
    for payload in {1, 2, unit // 3, unit // 2, unit - 9, unit - 8, unit - 7, unit}:
        c = classes.lookup(payload)
        assert payload + (0 if c.huge else 8) <= c.size


def test_refusals():
    for bad in (0, 1024, 4097):
        with pytest.raises(InvalidSizeError):
            SizeClasses(bad)
    for bad in (0, 17):
        with pytest.raises(UsageError):
            SizeClasses(4096, bad)
    with pytest.raises(UsageError):
        SizeClasses(4096, 8, "best")
    for bad in (0, -1, 4097):
        with pytest.raises(InvalidSizeError):
            SizeClasses(4096).lookup(bad)
