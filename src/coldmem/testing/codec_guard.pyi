from typing_extensions import Buffer

from coldmem.codecs import Codec

def guarded_call(
    codec: str | Codec,
    data: Buffer,
    capacity: int,
    compressing: bool,
    unit_bytes: int | None = None,
    hint: int = 0,
) -> tuple[int, bytes]: ...
