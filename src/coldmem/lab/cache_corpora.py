"""Values for ``bench cache``: JSON documents, HTML pages and NumPy arrays of about a wanted size.

Owns: nothing but what it was given to hold; `write_corpora` writes files into a folder of the caller.
Guarantees: the same values on each call on one machine, no network, nothing imported or run. No two
documents are equal: each says which key it is of. Assumes: the source files of a Python installation.

JSON and HTML are made of records of functions and classes that really are in those files: where, what
signature, what documentation, what they call. A document is two runs of neighbouring records, chosen by
the key, like a page of search results; so there are many more documents than records, and none is a
template with a number in it. Arrays are pieces of the ones in `coldmem.lab.corpora`, which are made
with seeds and are no real data.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coldmem.codecs import get_codec
from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import corpora

JSON, HTML, NUMPY = "json", "html", "numpy"
VALUE_KINDS = (JSON, HTML, NUMPY)
SOURCE_BYTES = 24 << 20  # of source files that are read for records
ARRAYS_BYTES = 6 << 20  # of each dtype
FILE_BYTES_MAX = 1 << 20
RECORD_BYTES_MAX = 1200  # longer documentation is cut where a sentence ends
CALLS_MAX = 8

# A definition, its arguments up to the colon, and what is documented right after it.
_DEFINITION = re.compile(
    r"^(?P<indent>[ ]{0,8})(?P<kind>async def|def|class) (?P<name>\w+)"
    r"(?P<rest>[^\n]*?(?:\n[^\n]{0,120}?){0,6}?):[ ]*(?:#[^\n]*)?\n"
    r"\s*(?:r?(?P<quote>\"\"\"|''')(?P<doc>.*?)(?P=quote))?",
    re.MULTILINE | re.DOTALL,
)
_CALL = re.compile(r"\b([A-Za-z_][\w.]{2,40})\(")
_WORDS = {"if", "for", "while", "def", "class", "return", "print", "not", "and", "elif", "with"}

Record = dict[str, Any]
Value = Any  # bytes, or an array


def _records(path: str, name: str) -> Iterator[Record]:
    """What one file defines."""
    with open(path, encoding="utf-8", errors="replace") as file:
        text = file.read(FILE_BYTES_MAX)
    found = list(_DEFINITION.finditer(text))
    line, at = 1, 0
    for number, match in enumerate(found):
        line += text.count("\n", at, match.start())
        at = match.start()
        end = found[number + 1].start() if number + 1 < len(found) else len(text)
        calls = [c for c in dict.fromkeys(_CALL.findall(text, match.end(), end))]
        yield {
            "name": match["name"],
            "kind": {"class": "class", "def": "function"}.get(match["kind"], "coroutine"),
            "module": name,
            "line": line,
            "lines": text.count("\n", at, end),
            "nested": bool(match["indent"]),
            "signature": " ".join(match["rest"].split()),
            "doc": _shortened(" ".join((match["doc"] or "").split())) or None,
            "calls": [c for c in calls if c not in _WORDS][:CALLS_MAX],
        }


def _shortened(doc: str) -> str:
    if len(doc) <= RECORD_BYTES_MAX:
        return doc
    end = doc.rfind(". ", 0, RECORD_BYTES_MAX)
    return doc[: end + 1 if end > 0 else RECORD_BYTES_MAX]


def records(source_bytes: int) -> Iterator[Record]:
    """Of so many bytes of this Python's source files, in the order of a checksum of their path."""
    for path, name in corpora.python_files():
        try:
            size = min(os.path.getsize(path), FILE_BYTES_MAX)
            found = list(_records(path, name))
        except OSError:
            continue
        yield from found
        source_bytes -= size
        if source_bytes <= 0:
            return


def _as_json(record: Record) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode()


def _as_html(record: Record) -> bytes:
    """A section, as pages of documentation have them."""
    name, module = html.escape(record["name"]), html.escape(record["module"])
    links = ", ".join(
        f'<a class="reference" href="/search?q={html.escape(c)}">{html.escape(c)}</a>'
        for c in record["calls"]
    )
    return (
        f'<section id="{module}.{name}">\n<dt class="sig {record["kind"]}"><code>{name}'
        f'<span class="sig-paren">{html.escape(record["signature"])}</span></code>'
        f'<a class="source" href="/{module.replace(".", "/")}.py#L{record["line"]}">[source]</a></dt>\n'
        f"<dd><p>{html.escape(record['doc'] or '')}</p>"
        + (f'<p class="calls">Calls {links}.</p>' if links else "")
        + "</dd>\n</section>"
    ).encode()


_FORMS: dict[str, tuple[Callable[[Record], bytes], bytes]] = {
    JSON: (_as_json, b", "), HTML: (_as_html, b"\n"),
}
_FRAMES: dict[str, tuple[bytes, bytes]] = {
    JSON: (b'{"query": %d, "page": %d, "found": [', b"]}"),
    HTML: (
        b'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">'
        b'<title>Results %d, page %d</title><link rel="stylesheet" href="/static/basic.css"></head>\n'
        b'<body><nav><a href="/index">index</a> <a href="/modules">modules</a></nav>\n<dl>\n',
        b"\n</dl></body></html>\n",
    ),
}


def write_corpora(
    kinds: tuple[str, ...], folder: Path, source_bytes: int = SOURCE_BYTES
) -> list[Record]:
    """Write what `load` reads; how many bytes each kind has, and how well they compress.

    Returns
    -------
    list of dict
        `value_kind`, `bytes`, `records` and `zstd3_ratio`, original bytes per byte of all of them
        compressed at once by zstd at level 3.
    """
    text = [kind for kind in kinds if kind in _FORMS]
    found = list(records(source_bytes)) if text else []
    if text and len(found) < 16:
        raise EnvironmentFailure("this Python installation has no source files to make documents of")
    told: list[Record] = []
    for kind in kinds:
        if kind in _FORMS:
            form, between = _FORMS[kind]
            parts = list(dict.fromkeys(map(form, found)))
            ends = np.array(list(accumulate(len(part) + len(between) for part in parts)), np.int64)
            blob = between.join(parts) + between
            Path(folder, f"{kind}.bin").write_bytes(blob)
            np.save(Path(folder, f"{kind}.npy"), ends)
        elif kind == NUMPY:
            each = max(min(ARRAYS_BYTES, source_bytes) >> 20, 1) << 20
            parts = [corpora.make(dtype, each).tobytes() for dtype in corpora.NUMERIC]
            blob = b"".join(parts)
            Path(folder, f"{kind}.bin").write_bytes(blob)
        else:
            raise UsageError(f"no values are called {kind!r}; there are {', '.join(VALUE_KINDS)}")
        told.append({"value_kind": kind, "bytes": len(blob), "records": len(parts),
                     "zstd3_ratio": round(len(blob) / _packed_bytes(blob), 2)})
    return told


def _packed_bytes(blob: bytes) -> int:
    codec = get_codec("zstd:3")
    packed = codec.compress(blob)
    return len(blob) if packed is None else len(packed)


@dataclass(frozen=True, slots=True)
class Documents:
    """Makes the value of a key: a frame, a run of records from one place, and one from another."""

    blob: bytes
    starts: list[int]
    stops: list[int]  # of the run that starts there
    head: bytes
    tail: bytes
    between: bytes

    def __call__(self, key: int) -> Value:
        n = len(self.starts)
        first = key * 7919 % n
        second = (first + 1 + key // n * 104_729 + n // 3) % n
        return b"".join((
            self.head % (key, second % 10),
            self.blob[self.starts[first] : self.stops[first]],
            self.blob[self.starts[second] : self.stops[second] - len(self.between)],
            self.tail,
        ))


@dataclass(frozen=True, slots=True)
class Arrays:
    """Makes the value of a key: an array of its own, a piece of the dtype whose turn it is."""

    blobs: tuple[npt.NDArray[Any], ...]
    value_bytes: int

    def __call__(self, key: int) -> Value:
        source = self.blobs[key % len(self.blobs)]
        count = self.value_bytes // source.itemsize
        at = key // len(self.blobs) * (count + 1) * 13 % (len(source) - count)
        return source[at : at + count].copy()


def load(kind: str, value_bytes: int, folder: Path) -> Callable[[int], Value]:
    """A function that makes the value of a key, of about `value_bytes`, from what is in `folder`."""
    data = Path(folder, f"{kind}.bin").read_bytes()
    if kind == NUMPY:
        parts = np.split(np.frombuffer(data, np.uint8), len(corpora.NUMERIC))
        blobs = tuple(
            part.view(corpora.dtype_of(name))
            for part, name in zip(parts, corpora.NUMERIC, strict=True)
        )
        return Arrays(blobs, value_bytes)
    ends: npt.NDArray[np.int64] = np.load(Path(folder, f"{kind}.npy"))
    head, tail = _FRAMES[kind]
    between = _FORMS[kind][1]
    half = max((value_bytes - len(head) - len(tail)) // 2, 1)
    starts = np.concatenate([[0], ends[:-1]])
    # To the end of the record that is nearest to what is wanted; a run never wraps around.
    after = np.minimum(np.searchsorted(ends, starts + half), len(ends) - 1)
    before = np.maximum(after - 1, np.arange(len(ends)))
    nearer = np.abs(ends[before] - starts - half) < np.abs(ends[after] - starts - half)
    stops = np.where(nearer, ends[before], ends[after])
    return Documents(data, starts.tolist(), stops.tolist(), head, tail, between)
