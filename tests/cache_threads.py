"""What thread tests of the cache share: values that say whose and which they are, and crews."""

import struct
import threading

from cache_data import noise

HEAD = struct.Struct("<QQI")
THREADS = 6


def value_of(key, version, nbytes):
    """A value that tells its key and version in its first bytes, and again in all that follow."""
    head = HEAD.pack(key, version, nbytes)
    body = noise(200, version) if version % 3 else b"%d," % version * 20
    return head + (body * (nbytes // len(body) + 1))[:nbytes]


def version_of(value, key):
    """The version of a value that is whole and belongs to `key`."""
    found, version, nbytes = HEAD.unpack_from(value)
    assert found == key
    assert value == value_of(key, version, nbytes)
    return version


def sizes(pick):
    return pick.choice([0, 50, 300, 2000, 3000, 5000, 20_000, 70_000])


def crew(jobs, seconds):
    """Each job over and over, in a thread of its own; the first error is raised here."""
    stop, errors = threading.Event(), []

    def body(job):
        try:
            while not stop.is_set():
                job()
        except BaseException as error:
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=body, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
