"""`bench cache`: its values, its accesses, what it counts, its goals, and the command in small."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict, deque
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldmem.cli.main import run as cli_run
from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import cache_access, cache_bench, cache_case, cache_corpora, cache_peers
from coldmem.lab.cache_bench import CachePlan
from coldmem.lab.cache_case import CacheCase, equal, key_of
from coldmem.lab.cache_corpora import HTML, JSON, NUMPY, VALUE_KINDS
from coldmem.lab.cache_goals import judge
from coldmem.lab.cache_peers import Kind, Opening
from coldmem.lab.child import run_child
from coldmem.lab.result import Row

MIB = 1 << 20
SOURCE_BYTES = 1 << 20
TOLD = {"peer", "workload", "value_kind", "value_bytes", "threads", "ops_per_s", "get_p50_us",
        "get_p99_us", "bytes_per_entry", "hit_ratio", "entries", "repeat"}
ROOM = Path(cache_bench.SHARED_MEMORY)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small one of each kind."""
    folder = tmp_path_factory.mktemp("corpus")
    cache_corpora.write_corpora(VALUE_KINDS, folder, SOURCE_BYTES)
    return folder


def left_over(pid: int = os.getpid()) -> set[Path]:
    """Folders of a process of ours, in both places."""
    places = [Path(tempfile.gettempdir()), ROOM]
    return {path for place in places if place.is_dir() for path in place.glob(f"coldmem-cache-{pid}-*")}


def case(corpus: Path, folder: Path, peer: str, *workloads: str, **more: Any) -> CacheCase:
    folder.mkdir(exist_ok=True)
    return CacheCase(**{
        "peer": peer, "workloads": workloads, "value_kind": JSON, "value_bytes": (1024,),
        "threads": (2,), "corpus": str(corpus), "folder": str(folder), "seconds": 0.02,
        "data_bytes": 256 << 10, "limit_bytes": 4 * MIB, **more})


# -- values ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [JSON, HTML])
def test_documents(kind: str, corpus: Path, tmp_path: Path) -> None:
    value_of = cache_corpora.load(kind, 4096, corpus)
    values = [value_of(number) for number in range(4000)]
    assert len(set(values)) == len(values), "keys share values"
    assert 3500 < np.mean([len(value) for value in values]) < 4700
    again = cache_corpora.write_corpora((kind,), tmp_path, SOURCE_BYTES)
    assert cache_corpora.load(kind, 4096, tmp_path)(1234) == values[1234]
    assert 2 < again[0]["zstd3_ratio"] < 20 and again[0]["records"] > 100
    for value in values[::100]:
        well_formed(kind, value)


def well_formed(kind: str, value: bytes) -> None:
    if kind == JSON:
        found = json.loads(value)
        assert found["found"] and all({"name", "module", "signature"} <= set(f) for f in found["found"])
        return
    open_tags: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: Any) -> None:
            if tag not in ("meta", "link"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Reader().feed(value.decode())
    assert not open_tags and value.startswith(b"<!DOCTYPE html>")


def test_documents_are_more_than_there_are_records(corpus: Path) -> None:
    """Keys far beyond the records: what follows the frame differs too, not the number alone."""
    value_of = cache_corpora.load(JSON, 1024, corpus)
    records = len(value_of.starts)  # type: ignore[attr-defined]
    one, other = (value_of(7 + records * n).partition(b"[")[2] for n in (0, 1))
    assert one != other


def test_arrays(corpus: Path) -> None:
    value_of = cache_corpora.load(NUMPY, 1024, corpus)
    values = [value_of(number) for number in range(60)]
    assert {value.dtype.str for value in values} == {"<f8", "<f4", "<i8", "<i4", "<i2", "|b1"}
    assert {value.nbytes for value in values} == {1024}
    assert all(value.base is None for value in values), "a piece of the corpus keeps all of it alive"
    assert equal(value_of(5), values[5]) and not equal(value_of(0), values[6])


@pytest.mark.parametrize("value", [b"abc", np.arange(5.0), np.array([True, False])])
def test_a_wrong_value_is_noticed(value: Any) -> None:
    assert equal(value, value) and not equal(value, cache_case.changed(value))
    assert not equal(np.arange(5), np.arange(5.0)) and not equal(b"abc", bytearray(b"abc"))
    assert not equal(np.zeros((2, 3)), np.zeros((3, 2)))


# -- accesses --------------------------------------------------------------------------------------
def test_zipf() -> None:
    drawn = cache_access.zipf(200_000, 1000, 1)
    assert drawn.min() >= 0 and drawn.max() < 1000
    counts = np.sort(np.bincount(drawn, minlength=1000))[::-1]
    weights = np.arange(1, 1001) ** -0.99
    expected = 200_000 * weights / weights.sum()
    assert abs(counts[:50] / expected[:50] - 1).max() < 0.1
    assert (cache_access.zipf(200_000, 1000, 1) == drawn).all()
    other = cache_access.zipf(200_000, 1000, 2)
    assert (other != drawn).any()
    assert np.bincount(other).argmax() == np.bincount(drawn).argmax(), "the hottest key is the same"


def test_scans() -> None:
    drawn = cache_access.scan_mixed(200_000, 1000, 1)
    once = drawn[drawn >= 1000]
    assert len(drawn) == 200_000 and len(set(once.tolist())) == len(once)
    assert 0.28 < len(once) / len(drawn) < 0.32
    changes = np.flatnonzero(np.diff((drawn >= 1000).astype(int)))
    assert np.median(np.diff(changes)[1::2]) >= 200 and len(changes) > 50, "they come in runs"


# -- what is counted -------------------------------------------------------------------------------
class Model:
    """LRU by number of values: what a hit ratio is compared with."""

    def __init__(self, how: Opening) -> None:
        self.values: OrderedDict[str, bytes] = OrderedDict()
        self.most = how.limit_bytes or 1 << 30

    def get(self, key: str) -> bytes | None:
        if key in self.values:
            self.values.move_to_end(key)
        return self.values.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.values[key] = value
        self.values.move_to_end(key)
        if len(self.values) > self.most:
            self.values.popitem(last=False)

    def used_bytes(self) -> int:
        return len(self.values)

    def entries(self) -> int:
        return len(self.values)

    def full(self) -> bool:
        return False

    def close(self) -> None:
        self.values.clear()


class Forgetful(Model):
    """Loses every seventh key."""

    def get(self, key: str) -> bytes | None:
        return None if int(key[-9:]) % 7 == 3 else super().get(key)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a class take part under a name."""
    def add(name: str, make: Any) -> None:
        monkeypatch.setitem(cache_peers.PEERS, name, Kind(name, "of a test", make))

    return add


@pytest.mark.parametrize("workload", ["zipf", "scan"])
def test_hits(workload: str, corpus: Path, tmp_path: Path, peer: Any) -> None:
    peer("model", Model)
    (row,) = cache_case.run(case(corpus, tmp_path / "f", "model", workload, own_limit_bytes=100,
                                 keys=1000, accesses=9000, seed=5))
    draw = {"zipf": cache_access.zipf, "scan": cache_access.scan_mixed}[workload]
    held: deque[int] = deque(maxlen=100)
    hits = 0
    for at, number in enumerate(draw(9000, 1000, 5).tolist()):
        if number in held:
            held.remove(number)
            hits += at >= 6000
        held.append(number)
    assert row["hit_ratio"] == pytest.approx(hits / 3000, abs=1e-4)
    assert row["entries"] == 100 and row["wrong"] == 0


def test_what_is_lost_is_wrong(corpus: Path, tmp_path: Path, peer: Any) -> None:
    peer("forgetful", Forgetful)
    rows = cache_case.run(case(corpus, tmp_path / "f", "forgetful", "get", "set"))
    assert {row["workload"]: row["wrong"] for row in rows} == {"get": 0, "set": 0}
    assert all(int(str(row["lost"])) > 0 for row in rows)
    (filled,) = cache_case.run(case(corpus, tmp_path / "g", "forgetful", "entries"))
    assert int(str(filled["lost"])) > 0
    assert len(cache_bench.wrong(cache_bench.Result("x", {}, [*rows, filled]))) == 3


def test_a_fill_ends_at_the_kernels_account(corpus: Path, tmp_path: Path) -> None:
    # In a process of its own: the heap of this one has holes that would be filled first.
    asked = case(corpus, tmp_path / "f", "dict", "entries", limit_bytes=8 * MIB)
    (row,) = run_child("coldmem.lab.cache_case", asked.to_json(), "fill", 60)["rows"]
    assert 8 * MIB <= int(str(row["held_bytes"])) < 9 * MIB
    assert 1000 < float(str(row["bytes_per_entry"])) < 1700, "a value is about 1 KiB"
    assert row["lost"] == row["wrong"] == 0 and row["ops_per_s"]


def test_files_count_as_memory(tmp_path: Path) -> None:
    how = Opening(JSON, folder=tmp_path)
    before = how.held_bytes()
    Path(tmp_path, "file").write_bytes(bytes(range(256)) * 40_000)
    assert how.held_bytes() - before > 9 * MIB


def test_limits_follow_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the limit held: the same again with half, and only that counts."""
    given = []

    def child(module: str, text: str, what: str, seconds: float) -> dict[str, Any]:
        found = json.loads(text)
        row = {"peer": found["peer"], "workload": found["workloads"][0], "value_kind": JSON,
               "value_bytes": 1024, "threads": 1, "entries": 1000, "own_bytes": 6 * MIB,
               "held_bytes": found["limit_bytes"], "wrong": 0, "lost": 0}
        if found["own_limit_bytes"]:
            given.append(found["own_limit_bytes"])
            row["held_bytes"] = 8 * MIB * found["own_limit_bytes"] // (3 * MIB)
        return {"rows": [row]}

    monkeypatch.setattr(cache_bench, "run_child", child)
    monkeypatch.setattr(cache_bench, "missing", lambda name: "")
    result = cache_bench.run(CachePlan(
        ("cachetools", "dict"), ("zipf",), limit_bytes=8 * MIB, source_bytes=SOURCE_BYTES))
    assert given == [6 * MIB, 3 * MIB]
    assert [row["held_bytes"] for row in result.rows] == [8 * MIB]
    assert result.settings["keys"] == 10_000, "ten times what a dict holds"


# -- goals -----------------------------------------------------------------------------------------
def rows_of(peer: str, workload: str, figure: str, *values: float, threads: int = 1) -> list[Row]:
    return [{"peer": peer, "workload": workload, "value_kind": JSON, "value_bytes": 1024,
             "threads": threads, "ops_per_s": None, "hit_ratio": None, "bytes_per_entry": None,
             figure: value, "repeat": n} for n, value in enumerate(values)]


def test_goals() -> None:
    rows = [
        *rows_of("coldmem", "get", "ops_per_s", 100, 300, 200),
        *rows_of("diskcache", "get", "ops_per_s", 10, 10, 10),
        *rows_of("redis", "get", "ops_per_s", 50, 60, 100),
        *rows_of("coldmem", "get", "ops_per_s", 80, threads=8),
        *rows_of("diskcache", "get", "ops_per_s", 10, threads=8),
        *rows_of("coldmem", "entries", "bytes_per_entry", 300),
        *rows_of("dict", "entries", "bytes_per_entry", 1200),
        *rows_of("dict-zstd", "entries", "bytes_per_entry", 420),
        *rows_of("coldmem", "zipf", "hit_ratio", 0.8), *rows_of("coldmem-lru", "zipf", "hit_ratio", 0.9),
        *rows_of("redis", "zipf", "hit_ratio", 0.7), *rows_of("zict", "zipf", "hit_ratio", 0.81),
    ]
    found = {verdict.goal.text: verdict for verdict in judge(rows)}
    disk, redis, lz4, plain, zstd, zipf, scan = found.values()
    assert disk.by_cell == {(JSON, 1024, 1): 20.0, (JSON, 1024, 8): 8.0} and disk.met is False
    assert redis.worst == 2.0, "the median of ratios, not the ratio of medians"
    assert lz4.met is None and scan.met is None
    assert plain.worst == 4.0 and plain.met is True
    assert zstd.worst == 1.4 and zstd.met is False
    assert zipf.worst == pytest.approx(0.8 / 0.81) and set(zipf.against.values()) == {"zict"}


# -- the command -----------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [
    {"repeats": 0}, {"threads": ()}, {"seconds": 0.0}, {"limit_bytes": MIB}, {"data_bytes": 1},
    {"peers": ("x",)}, {"workloads": ("x",)}, {"cells": (("json", 16),)}, {"cells": (("x", 1024),)},
])
def test_plans_that_make_no_sense(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        CachePlan(**change).check()


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_bench, "missing", lambda name: "not installed")
    with pytest.raises(EnvironmentFailure, match="coldmem\\[peers\\]"):
        cache_bench.run(CachePlan())
    assert not left_over()


SMALL = ["bench", "cache", "--quick", "--seconds", "0.02", "--data", "1M", "--limit", "4M"]


def test_rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_peers, "find_spec", lambda name: None)
    assert cli_run([*SMALL, "--peers", "dict", "redis", "--value-kinds", "json", "numpy",
                    "--value-bytes", "1K", "4K", "--threads", "1", "3", "--repeats", "2",
                    "--workloads", "get", "set", "entries", "zipf", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert not left_over()
    assert found["settings"]["skipped_peers"][0]["peer"] == "redis" and "SKIPPED redis" in told.err
    cells = {(r["value_kind"], r["value_bytes"], r["threads"], r["workload"], r["repeat"])
             for r in found["rows"] if r["workload"] in ("get", "set")}
    assert len(cells) == 2 * 2 * 2 * 2 * 2
    assert [r["workload"] for r in found["rows"]].count("entries") == 1
    for row in found["rows"]:
        assert set(row) >= TOLD and row["peer"] == "dict" and not row["wrong"] and not row["lost"]
        assert row["ops_per_s"] > 0 and row["entries"] > 0
        if row["workload"] == "get":
            assert 0 < row["get_p50_us"] <= row["get_p99_us"]
    assert found["settings"]["keys"] > 10_000, "a dict evicts nothing: no hits, but keys are counted"


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_run([*SMALL, "--peers", "dict", "--workloads", "get", "entries"]) == 0
    text = capsys.readouterr().out
    assert "Gets, everything fits" in text and "Entries in 4 MiB" in text and "Goals" in text
    assert "not measured" in text


def test_a_spoilt_value_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_run([*SMALL, "--peers", "dict", "--workloads", "get", "--spoil", "--json"]) == 1
    told = capsys.readouterr()
    assert "were not what was stored" in told.err
    assert all(row["wrong"] for row in json.loads(told.out)["rows"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_nothing_is_left_after_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "coldmem", "bench", "cache", "--peers", "dict", "--workloads", "get",
         "--seconds", "30", "--data", "1M", "--value-kinds", "numpy", "--value-bytes", "1K"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as child:
        assert child.stderr is not None
        while "get, numpy" not in child.stderr.readline():
            assert child.poll() is None
        assert left_over(child.pid)
        time.sleep(0.2)
        child.send_signal(number)
        assert child.wait(30) == (130 if number == signal.SIGINT else 143)
    assert not left_over(child.pid)
    with pytest.raises(ProcessLookupError):
        os.killpg(child.pid, 0)  # its children have ended too


def test_keys() -> None:
    assert key_of(12) == "search:000000012" and len(key_of(10**8)) == 16
