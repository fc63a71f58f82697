"""Names to codecs."""

from __future__ import annotations

from coldmem.codecs.codec import Codec
from coldmem.codecs.lz4 import Lz4Codec
from coldmem.codecs.raw import RawCodec
from coldmem.codecs.zstd import ZstdCodec
from coldmem.errors import UnknownCodecError


def get_codec(codec: str | Codec) -> Codec:
    """The codec of this name; a codec is returned as it is."""
    if isinstance(codec, Codec):
        return codec
    name, _, number = codec.partition(":")
    if name == "raw" and not number:
        return RawCodec()
    if name == "lz4":
        return Lz4Codec(int(number or 1))
    if name == "zstd":
        return ZstdCodec(int(number or 1))
    raise UnknownCodecError(f"there is no codec {codec!r}")
