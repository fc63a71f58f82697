"""A cache of each kind, checked and closed at the end."""

import pytest
from cache_data import KINDS, make_cache


@pytest.fixture
def new_cache(tmp_path):
    """`new_cache(kind, **options)`; all are checked at the end."""
    made = []

    def new(kind="ram", **options):
        made.append(make_cache(kind, tmp_path, **options))
        return made[-1]

    yield new
    for cache in made:
        if not cache.closed:
            cache.check_valid()
            cache.close()


@pytest.fixture(params=KINDS)
def cache(request, new_cache):
    return new_cache(request.param)
