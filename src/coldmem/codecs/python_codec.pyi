from typing import Any

from coldmem.codecs.codec import Codec

class PythonCodec(Codec):
    @property
    def target(self) -> Any: ...
    def __init__(self, target: object = None, name: str | None = None) -> None: ...
