from coldmem.codecs.codec import Codec

class ZstdCodec(Codec):
    def __init__(self, level: int = 1) -> None: ...
