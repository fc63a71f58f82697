"""What a zbud or z3fold pool tells about itself: plain records. Owns nothing, takes no locks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackendStats:
    """A pool at one moment; counts of bytes unless the name says otherwise.

    Attributes
    ----------
    used_bytes : int
        Memory of all pages: what the limit is about.
    limit_bytes, peak_bytes : int
        The limit (of all pools that share it), and the highest `used_bytes` so far.
    objects : int
        Objects that the owner has.
    pages : int
        Pages of this pool, those that one object fills among them.
    headless_pages : int
        z3fold: pages that one object fills, without a header.
    full_pages : int
        Pages with a header that no object can be added to.
    refused : int
        Objects of a size that the allocator does not take, so far.
    objects_moved : int
        Moved so far, within their page or to another one.
    pages_compacted : int
        Pages freed by moving their last object out, so far.
    resident_free_bytes, released_bytes, metadata_bytes : int
        As in `coldmem.zsmalloc.PoolStats`.
    """

    used_bytes: int
    limit_bytes: int
    peak_bytes: int
    objects: int
    pages: int
    headless_pages: int
    full_pages: int
    refused: int
    objects_moved: int
    pages_compacted: int
    resident_free_bytes: int
    released_bytes: int
    metadata_bytes: int
