from typing_extensions import Buffer

from coldmem.codecs.codec import Codec

VARIANT_NAMES: tuple[str, ...]

class AutoCodec(Codec):
    inner: Codec
    def __init__(self, inner: Codec, portable: bool = False) -> None: ...
    def choice(self, hint: int) -> tuple[str, float] | None: ...
    @staticmethod
    def variant(data: Buffer) -> str | None: ...
