from coldmem.codecs.codec import Codec

ACCELERATION_MAX: int

class Lz4Codec(Codec):
    def __init__(self, acceleration: int = 1) -> None: ...
