"""Codecs: one contract, and the codecs that keep it.

The contract is in ``codec.pxd`` (C) and `Codec` (Python); names are made into codecs by `get_codec`.
"""

from coldmem.codecs.codec import Codec
from coldmem.codecs.python_codec import PythonCodec
from coldmem.codecs.registry import CodecLike, available_codecs, get_codec, register_codec
from coldmem.codecs.zstd_dict import ZstdDictCodec, train_dictionary
from coldmem.errors import CodecError, MissingLibraryError, TrainingError, UnknownCodecError

__all__ = [
    "Codec",
    "CodecError",
    "CodecLike",
    "MissingLibraryError",
    "PythonCodec",
    "TrainingError",
    "UnknownCodecError",
    "ZstdDictCodec",
    "available_codecs",
    "get_codec",
    "register_codec",
    "train_dictionary",
]
