"""Codecs: one contract, and the codecs that keep it."""

from coldmem.codecs.codec import Codec
from coldmem.codecs.registry import get_codec

__all__ = ["Codec", "get_codec"]
