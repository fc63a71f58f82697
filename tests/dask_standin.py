"""A small stand-in for coldmem.Cache, until that is there: zlib, least recently used to files."""

import os
import tempfile
import threading
import zlib
from collections import OrderedDict

from coldmem.errors import MemoryLimitError


class Cache:
    def __init__(self, memory_max, *, disk_max=None, directory=None, serializer=None, policy="lru",
                 lossless=True, codec="auto"):
        self.memory_max, self.disk_max = memory_max, disk_max or 0
        self.dir = tempfile.mkdtemp(dir=directory) if self.disk_max else None
        self.dumps, self.loads = serializer
        self.ram, self.disk = OrderedDict(), {}
        self.lock = threading.RLock()
        self.used = self.disk_used = self.original = 0
        self.sizes = {}
        self.counts = {"writebacks": 0, "written_bytes": 0, "disk_reads": 0, "read_bytes": 0}
        self.closed = False

    def _path(self, key):
        return os.path.join(self.dir, str(key))

    def set(self, key, value):
        data = b"".join(self.dumps(value))
        packed = zlib.compress(data, 1)
        if len(packed) > len(data):
            packed = data
        with self.lock:
            if len(packed) > self.memory_max:
                raise MemoryLimitError("larger than the cache")
            while self.used + len(packed) > self.memory_max:
                if not self.evict(1):
                    raise MemoryLimitError("full")
            self.ram[key] = (packed is data, packed)
            self.used += len(packed)
            self.sizes[key] = len(data)
            self.original += len(data)

    def evict(self, nbytes):
        done = 0
        with self.lock:
            while self.ram and done < nbytes:
                key, (plain, packed) = next(iter(self.ram.items()))
                if self.disk_used + len(packed) > self.disk_max:
                    break
                with open(self._path(key), "wb") as f:
                    f.write(packed)
                del self.ram[key]
                self.disk[key] = (plain, len(packed))
                self.used -= len(packed)
                self.disk_used += len(packed)
                self.counts["writebacks"] += 1
                self.counts["written_bytes"] += len(packed)
                done += len(packed)
        return done

    def __getitem__(self, key):
        with self.lock:
            if key in self.ram:
                plain, packed = self.ram[key]
                self.ram.move_to_end(key)
            else:
                plain, n = self.disk[key]
                packed = __import__("pathlib").Path(self._path(key)).read_bytes()
                self.counts["disk_reads"] += 1
                self.counts["read_bytes"] += n
        return self.loads(memoryview(bytearray(packed if plain else zlib.decompress(packed))))

    def __delitem__(self, key):
        with self.lock:
            if key in self.ram:
                self.used -= len(self.ram.pop(key)[1])
            else:
                self.disk_used -= self.disk.pop(key)[1]
                os.unlink(self._path(key))
            self.original -= self.sizes.pop(key)

    def stats(self):
        with self.lock:
            return {"entries": len(self.ram) + len(self.disk), "ram_entries": len(self.ram),
                    "disk_entries": len(self.disk), "memory_used_bytes": self.used,
                    "stored_bytes": self.used, "disk_used_bytes": self.disk_used,
                    "original_bytes": self.original, **self.counts}

    def close(self):
        import shutil
        if self.dir and not self.closed:
            shutil.rmtree(self.dir)
        self.closed = True


def dask_setup(worker):
    import coldmem
    coldmem.Cache = Cache


if True:
    import coldmem
    if not hasattr(coldmem, "Cache"):
        coldmem.Cache = Cache
