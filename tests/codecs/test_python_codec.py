"""Codecs written in Python: what they may do, and what happens when they do something else."""

from __future__ import annotations

import bz2
import gc
import sys
import threading
import weakref
from typing import Any

import pytest

from coldmem.codecs import CodecError, PythonCodec, get_codec, register_codec
from coldmem.codecs import registry as registry_module
from coldmem.errors import UsageError
from coldmem.testing.codec_guard import guarded_call

DATA = b"cold memory " * 400


class Bz2:
    name = "bz2"

    def compress(self, data: memoryview) -> bytes:
        assert data.readonly
        return bz2.compress(data)

    def decompress(self, data: memoryview, size: int) -> bytes:
        return bz2.decompress(data)


class Broken(Bz2):
    """Does whatever `answer` says."""

    name = "broken"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def compress(self, data: memoryview) -> Any:
        return self.answer(data)

    def decompress(self, data: memoryview, size: int) -> Any:
        return self.answer(data)


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.append(report.exc_value))
    return seen


def test_round_trip() -> None:
    codec = get_codec(Bz2())
    assert codec.name == "bz2"
    packed = codec.compress(DATA)
    assert packed == bz2.compress(DATA)
    assert codec.decompress(packed, len(DATA)) == DATA


def test_subclass() -> None:
    class Upper(PythonCodec):
        def pack(self, data: memoryview) -> bytes:
            return bz2.compress(data)

        def unpack(self, data: memoryview, size: int) -> bytes:
            return bz2.decompress(data)

    codec = Upper(name="upper")
    packed = codec.compress(DATA)
    assert packed is not None
    assert codec.decompress(packed, len(DATA)) == DATA
    with pytest.raises(UsageError):
        PythonCodec()


def test_as_the_inner_codec_of_filters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "_REGISTERED", {})
    register_codec("bz2", Bz2)
    for name in ("bz2", "bitshuffle8+bz2", "auto+bz2"):
        codec = get_codec(name)
        assert codec.name == name
        packed = codec.compress(DATA)
        assert packed is not None
        assert codec.decompress(packed, len(DATA)) == DATA
    assert "bz2" in registry_module.available_codecs()


@pytest.mark.parametrize("name", ["lz4", "auto", "bitshuffle8", "a+b", "", "a b", "x:1"])
def test_names_that_cannot_be_registered(name: str) -> None:
    with pytest.raises(UsageError):
        register_codec(name, Bz2)


def test_incompressible() -> None:
    assert get_codec(Broken(lambda data: None)).compress(DATA) is None
    assert get_codec(Broken(bytes)).compress(DATA) is None


def test_exceptions_become_errors_and_are_reported(reports: list[BaseException]) -> None:
    def fail(data: memoryview) -> bytes:
        raise RuntimeError("no")

    codec = get_codec(Broken(fail))
    with pytest.raises(CodecError):
        codec.compress(DATA)
    with pytest.raises(CodecError):
        codec.decompress(DATA, 10)
    assert [type(r) for r in reports] == [RuntimeError, RuntimeError]
    assert reports[0].__traceback__ is not None


@pytest.mark.parametrize(
    "answer", [lambda data: "text", lambda data: 5, lambda data: b""], ids=["str", "int", "empty"]
)
def test_wrong_results_of_compression(answer: Any, reports: list[BaseException]) -> None:
    with pytest.raises(CodecError):
        get_codec(Broken(answer)).compress(DATA)
    assert len(reports) == 1


def test_wrong_results_of_decompression(reports: list[BaseException]) -> None:
    for answer in (lambda data: None, lambda data: bytes(11), lambda data: "x"):
        with pytest.raises(CodecError):
            get_codec(Broken(answer)).decompress(DATA, 10)
    assert len(reports) == 3
    assert guarded_call(Broken(lambda data: bytes(11)), DATA, 10, False)[0] < 0


def test_keeping_the_view_is_an_error(reports: list[BaseException]) -> None:
    kept = []

    def keep(data: memoryview) -> bytes:
        kept.append(memoryview(data)[:4])
        return b"x"

    with pytest.raises(CodecError):
        get_codec(Broken(keep)).compress(DATA)
    assert [type(r) for r in reports] == [BufferError]


def test_the_view_is_dead_after_the_call() -> None:
    kept = []

    def keep(data: memoryview) -> bytes:
        kept.append(data)
        return b"x"

    assert get_codec(Broken(keep)).compress(DATA) == b"x"
    with pytest.raises(ValueError, match="released"):
        kept[0][0]


def test_a_part_of_the_input_may_be_the_result() -> None:
    assert get_codec(Broken(lambda data: data[:3])).compress(DATA) == DATA[:3]


def test_threads_take_the_gil() -> None:
    codec = get_codec(Bz2())
    good = []

    def work() -> None:
        for _ in range(20):
            packed = codec.compress(DATA)
            good.append(packed is not None and codec.decompress(packed, len(DATA)) == DATA)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 80


def test_no_reference_is_left() -> None:
    target = Bz2()
    gone = weakref.ref(target)
    codec = get_codec(target)
    codec.compress(DATA)
    del target, codec
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("target", [object(), 5, None, b"lz4"])
def test_not_a_codec(target: Any) -> None:
    with pytest.raises(UsageError):
        get_codec(target)


def test_a_codec_needs_a_name() -> None:
    class Nameless:
        def compress(self, data: memoryview) -> bytes:
            return b""

        def decompress(self, data: memoryview, size: int) -> bytes:
            return b""

    with pytest.raises(UsageError):
        get_codec(Nameless())  # type: ignore[arg-type]


def test_keeping_an_array_over_the_view_is_an_error(reports: list[BaseException]) -> None:
    numpy = pytest.importorskip("numpy")
    kept = []

    def keep(data: memoryview) -> bytes:
        kept.append(numpy.frombuffer(data, dtype="u1"))
        return b"x"

    with pytest.raises(CodecError):
        get_codec(Broken(keep)).compress(DATA)
    assert [type(r) for r in reports] == [BufferError]
