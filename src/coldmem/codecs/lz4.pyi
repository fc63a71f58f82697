from coldmem.codecs.codec import Codec

class Lz4Codec(Codec):
    def __init__(self, acceleration: int = 1) -> None: ...
