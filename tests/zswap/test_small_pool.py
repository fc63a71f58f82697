"""A pool far too small for its threads: with room on disk no store may fail."""

import os
import threading

import pytest

from coldmem import Zswap


@pytest.mark.tsan
def test_stores_wait_for_units_that_others_have_in_hand():
    """All units of the pool may be in the hands of other threads, who write them back."""
    errors: list[BaseException] = []
    data = [os.urandom(4096) for _ in range(16)]
    with Zswap(max_pool="512K", swap="64M") as zswap:

        def work(thread: int) -> None:
            try:
                for i in range(200):
                    zswap.store(thread << 32 | i, data[i % 16])
                out = bytearray(4096)
                for i in range(200):
                    zswap.load(thread << 32 | i, out)
                    assert out == data[i % 16]
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(t,)) for t in range(16)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert not errors, errors[0]
        zswap.check_valid("full")
