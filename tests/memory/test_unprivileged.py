"""A user who is not root: what works, with which delivery, and what is said where it does not.

Python itself may lie where other users have no access: so each process begins as root, imports and uses
all of it once, and becomes nobody for good before the Memory of the test is made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import coldmem

SOURCE = Path(coldmem.__file__).parents[1]


def script(text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": str(SOURCE)}, cwd="/",
    )


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

AS_NOBODY = """
    import sys
    import numpy as np
    from coldmem import Memory
    from coldmem.linux.userfaultfd import rights_here

    print(rights_here())
    for unit in ("4K", "64K"):
        memory = Memory("8M", "64M", unit_bytes=unit)
        print(memory.delivery)
        want = np.random.default_rng(1).integers(0, 256, 12 << 20, np.uint8)
        a = memory.array(want)
        assert memory.stats()["swap_bytes"] > 0
        assert np.array_equal(a, want)
        a[::4096] ^= 1
        want[::4096] ^= 1
        memory.evict(a)
        with memory.pinned(a[:1 << 20]):
            assert np.array_equal(a, want)
        with memory:
            b = a + 1
            assert memory.owns(b)
        assert np.array_equal(b, want + 1)
        memory.check_valid("full")
        del a, b
        memory.close()
    print("right")
"""


BECOME_NOBODY = """
import ctypes, os, pathlib, pwd, shutil, socket, tempfile, threading
import numpy as np
import coldmem.errors
from coldmem import Memory
warm = Memory("8M", "8M")
warm.array(np.random.default_rng(1).integers(0, 256, 9 << 20, np.uint8)).sum()
warm.check_valid("full")
warm.close()
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # its own /proc is a process's own again
os.chdir("/")
"""


def as_nobody(text: str) -> subprocess.CompletedProcess[str]:
    return script(BECOME_NOBODY + textwrap.dedent(text))


@needs_root
def test_without_rights_it_is_sigbus_and_right() -> None:
    done = as_nobody(AS_NOBODY)
    rights, *rest = done.stdout.split() or [""]
    if rights == "full":
        pytest.skip("this system gives every user the full service of userfaultfd")
    assert (done.returncode, done.stderr) == (0, "")
    assert rights == "user" and rest == ["sigbus", "sigbus", "right"]


@needs_root
def test_without_rights_handler_is_refused_with_a_sentence() -> None:
    done = as_nobody("""
        from coldmem.errors import EnvironmentFailure
        from coldmem.linux.userfaultfd import rights_here
        try:
            Memory("8M", 0, delivery="handler")
        except EnvironmentFailure as error:
            print(rights_here(), error)
    """)
    assert (done.returncode, done.stderr) == (0, "")
    if not done.stdout:
        pytest.skip("this system gives every user the full service of userfaultfd")
    assert done.stdout.startswith("user ")
    assert "/dev/userfaultfd" in done.stdout and "sigbus" in done.stdout


# -- system calls -----------------------------------------------------------------------------------
CALLS = """
    import socket, sys, tempfile, threading
    from pathlib import Path
    from coldmem.errors import EnvironmentFailure

    assert os.getresuid() == (nobody.pw_uid,) * 3 and os.getresgid() == (nobody.pw_gid,) * 3
    try:
        memory = Memory("8M", "96M", delivery=DELIVERY)
    except EnvironmentFailure as error:
        sys.exit(f"refused: {error}")
    assert memory.delivery == DELIVERY
    N = 10 << 20
    want = np.random.default_rng(2).integers(0, 256, N, np.uint8)

    def away():
        a = memory.array(want)
        memory.evict(a)
        assert memory.stats()["swap_bytes"] > 0
        return a

    def fresh():
        a = memory.ones(N, np.uint8)
        memory.evict(a)
        return a

    with tempfile.TemporaryDirectory() as folder:
        raw, npy = Path(folder, "raw"), Path(folder, "a.npy")
        away().tofile(raw)
        assert raw.stat().st_uid == nobody.pw_uid and raw.read_bytes() == want.tobytes()
        np.save(npy, away())
        with memory:
            loaded = np.load(npy)
        assert memory.owns(loaded) and np.array_equal(loaded, want)
        del loaded
        a = fresh()
        with open(raw, "rb") as file:
            assert file.readinto(a.data) == N
        assert np.array_equal(a, want)
        a = fresh()
        fd = os.open(raw, os.O_RDWR)
        assert os.preadv(fd, [a[: N // 2], a[N // 2 :]], 0) == N
        assert np.array_equal(a, want)
        assert os.pwrite(fd, away()[::-1].copy(), 0) == N and os.pread(fd, 9, 0) == bytes(want[:-10:-1])
        os.close(fd)
    ours, theirs = socket.socketpair()
    a, b = away(), fresh()
    thread = threading.Thread(target=ours.sendall, args=(a,))
    thread.start()
    got = 0
    while got < N:
        got += theirs.recv_into(memoryview(b)[got:])
    thread.join()
    assert np.array_equal(a, want) and np.array_equal(b, want)
    assert memory.stats()["dropped"] > 1000 and memory.stats()["failed"] == 0
    memory.check_valid("full")
    del a, b
    memory.close()
    print("right")
"""

# A device that every user may read, for this process alone: as the udev rule of docs/memory.md makes it.
READABLE_DEVICE = """
import ctypes, os, stat, sys, tempfile
libc = ctypes.CDLL(None, use_errno=True)
def do(what, result):
    if result:
        print(f"cannot {what}: {os.strerror(ctypes.get_errno())}")
        sys.exit(75)
do("have mounts of our own", libc.unshare(0x20000))
do("keep them to ourselves", libc.mount(b"none", b"/", None, 0x4000 | 0x40000, None))
with tempfile.TemporaryDirectory() as folder:
    node = os.path.join(folder, "userfaultfd")
    os.mknod(node, stat.S_IFCHR | 0o444, os.stat("/dev/userfaultfd").st_rdev)
    os.chmod(node, 0o444)
    do("mount the device", libc.mount(node.encode(), b"/dev/userfaultfd", None, 0x1000, None))
"""


@needs_root
@pytest.mark.parametrize("delivery", ["sigbus", "handler"])
def test_system_calls_as_nobody(delivery: str) -> None:
    done = script(BECOME_NOBODY + f"DELIVERY = {delivery!r}\n" + textwrap.dedent(CALLS))
    if delivery == "handler" and done.returncode == 1 and done.stderr.startswith("refused: "):
        assert "/dev/userfaultfd" in done.stderr and done.stderr.count("\n") == 1
        return
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


@needs_root
@pytest.mark.skipif(not os.path.exists("/dev/userfaultfd"), reason="this kernel has no /dev/userfaultfd")
def test_system_calls_as_nobody_who_may_read_the_device() -> None:
    done = script(READABLE_DEVICE + BECOME_NOBODY + "DELIVERY = 'handler'\n" + textwrap.dedent(CALLS))
    if done.returncode == 75:
        pytest.skip(f"no device of our own here: {done.stdout.strip()}")
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")
