"""Power cuts, played: only what was synced is there afterwards, and a part of the rest."""

import os
import random
import stat

import pytest

from coldmem.cache.log import Log


class Volatile:
    """A disk with a cache: what would be left of the folder after a power cut at this moment.

    A file keeps its content of the last fdatasync, or as much as it has now; the folder keeps the
    names of its last fdatasync, and of the changes since some, in any combination.
    """

    pwritev = staticmethod(os.pwritev)
    pread = staticmethod(os.pread)

    def __init__(self, folder):
        self.folder = folder
        self.content = {}  # inode -> what is durable
        self.names = {}  # name -> inode, durable
        self.held = {}  # descriptors, so that no inode is used a second time

    def _hold(self, fd):
        inode = os.fstat(fd).st_ino
        if inode not in self.held:
            self.held[inode] = os.dup(fd)
        return inode

    def fdatasync(self, fd):
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            self.content[self._hold(fd)] = os.pread(fd, os.fstat(fd).st_size, 0)
            return
        self.names = self._names()

    def _names(self):
        names = {}
        for entry in os.scandir(self.folder):
            fd = os.open(entry.path, os.O_RDONLY)
            names[entry.name] = self._hold(fd)
            os.close(fd)
        return names

    def cut(self, target, dice):
        """Write into `target` what is left."""
        target.mkdir(mode=0o700)
        now, names = self._names(), dict(self.names)
        for name in now.keys() | names.keys():
            if now.get(name) != names.get(name) and dice.random() < 0.5:
                if name in now:
                    names[name] = now[name]
                else:
                    del names[name]
        for name, inode in names.items():
            data = self.content.get(inode, b"")
            fd = self.held[inode]
            current = os.pread(fd, os.fstat(fd).st_size, 0)
            if dice.random() < 0.5 and len(current) > len(data):
                data = current[:dice.randint(len(data), len(current))]
            (target / name).write_bytes(data)

    def close(self):
        for fd in self.held.values():
            os.close(fd)


@pytest.mark.parametrize("seed", range(6))
def test_after_a_power_cut_all_that_was_flushed_is_there(tmp_path, seed):
    """Of each key, the value of the last flush or a later one, and nothing that was gone by then."""
    dice = random.Random(seed)
    folder = tmp_path / "0"
    disk = Volatile(folder)
    log = Log(folder, disk_max=None, persistent=True, segment_bytes=4096, io=disk)
    places = {}
    possible = {}  # key -> payloads (or None) that it may have after a cut
    turn = deleted = 0

    def set_state(key, payload):
        possible.setdefault(key, {None}).add(payload)

    def moved(key, old, new):
        if places.get(key) != old:
            return False
        places[key] = new
        return True

    def forget(key, evicted):
        log.free(places.pop(key))
        set_state(key, None)
        if not evicted:
            log.remove([key])

    evicted = set()  # may be there or not, until something newer is flushed
    for cuts in range(1, 13):
        for _ in range(dice.randrange(1, 120)):
            turn += 1
            what = dice.random()
            key = b"k%d" % dice.randrange(30)
            if what < 0.6:
                payload = b"%d " % turn * dice.randrange(1, 300)
                (place,) = log.append([(key, b"", [payload])])
                if key in places:
                    log.free(places[key])
                places[key] = place
                evicted.discard(key)
                set_state(key, payload)
            elif what < 0.75 and key in places:
                forget(key, evicted=False)
                evicted.discard(key)
            elif what < 0.8 and key in places:
                forget(key, evicted=True)
                evicted.add(key)
            elif what < 0.92:
                numbers = set(log._segments)
                log.collect(moved, dice.choice([None, 3000]))
                deleted += len(numbers - set(log._segments))
            elif what < 0.93:
                log.clear()
                places.clear()
                evicted.clear()
                possible = {key: states | {None} for key, states in possible.items()}
            else:
                log.flush()
                for key in possible:
                    if key in places:
                        now = bytes(log.read(places[key]).payload)
                        possible[key] = {now}
                    elif key not in evicted:
                        possible[key] = {None}
        target = tmp_path / str(cuts)
        disk.cut(target, dice)
        log._folder.close()
        log._folder = None
        disk.close()
        disk = Volatile(target)
        disk.names = disk._names()
        for entry in os.scandir(target):
            fd = os.open(entry.path, os.O_RDONLY)
            disk.fdatasync(fd)
            os.close(fd)
        log = Log(target, disk_max=None, persistent=True, segment_bytes=4096, io=disk)
        places, found = {}, {}
        for place, key, _ in log.recover():
            places[key] = place
            found[key] = bytes(log.read(place).payload)
        for key, states in possible.items():
            assert found.get(key) in states, (key, found.get(key, b"")[:20], cuts)
        assert found.keys() <= possible.keys()
        possible = {key: {found.get(key)} for key in possible}
        evicted = set()
    assert deleted > 20, "it never came to collecting"
    log.close()
    disk.close()
