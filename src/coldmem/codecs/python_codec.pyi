from coldmem.codecs.codec import Codec

class PythonCodec(Codec):
    target: object
    def __init__(self, target: object = None, name: str | None = None) -> None: ...
