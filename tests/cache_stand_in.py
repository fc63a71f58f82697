"""The least that `memoize` needs of a Cache: a dict. Values come back as they were set."""

from coldmem.cache.flight import Flight

_MISSING = object()


class StandIn(dict):
    def __init__(self):
        super().__init__()
        self.flight = Flight()
        self.ttls = {}

    def set(self, key, value, *, ttl=None):
        self[key] = value
        self.ttls[key] = ttl

    def get_or_load(self, key, loader, *, ttl=None):
        value = self.get(key, _MISSING)
        if value is _MISSING:
            def load():
                found = self.get(key, _MISSING)
                if found is _MISSING:
                    found = loader()
                    self.set(key, found, ttl=ttl)
                return found

            value = self.flight.do(key, load)
        return value
