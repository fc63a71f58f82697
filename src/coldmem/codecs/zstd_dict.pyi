from collections.abc import Sequence

from typing_extensions import Buffer

from coldmem.codecs.codec import Codec

class ZstdDictCodec(Codec):
    def __init__(self, dictionary: bytes, level: int = 1) -> None: ...
    @property
    def dictionary(self) -> bytes: ...
    @property
    def level(self) -> int: ...
    @property
    def dictionary_bytes(self) -> int: ...

def train_dictionary(
    samples: Sequence[Buffer], nbytes: int = 32768, level: int = 1
) -> bytes: ...
