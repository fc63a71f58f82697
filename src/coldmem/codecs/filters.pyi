from coldmem.codecs.codec import Codec

WIDTHS: tuple[int, ...]

class FilterCodec(Codec):
    @property
    def inner(self) -> Codec: ...
    def __init__(
        self, inner: Codec, width: int, with_delta: bool = False, portable: bool = False
    ) -> None: ...
