from coldmem.codecs.codec import Codec

class FilterCodec(Codec):
    inner: Codec
    def __init__(
        self, inner: Codec, width: int, with_delta: bool = False, portable: bool = False
    ) -> None: ...
