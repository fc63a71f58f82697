from coldmem.codecs.codec import Codec

class RawCodec(Codec):
    def __init__(self) -> None: ...
