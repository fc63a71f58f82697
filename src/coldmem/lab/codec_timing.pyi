from typing_extensions import Buffer

from coldmem.codecs import Codec

def time_codec(
    codec: str | Codec, data: Buffer, unit_bytes: int, region_bytes: int, hint: int
) -> dict[str, int]: ...
