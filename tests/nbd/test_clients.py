"""Real clients: libnbd's tools, qemu's, fio, and a file system in the kernel."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from unit_data import UNIT, noise, text

from .conftest import until

MIB = 1 << 20


def tools(*names):
    """Their paths; skips, saying which Debian package has what is absent."""
    packages = {"nbdinfo": "libnbd-bin", "nbdcopy": "libnbd-bin", "nbdfuse": "nbdfuse",
                "qemu-img": "qemu-utils", "qemu-io": "qemu-utils", "fio": "fio",
                "mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "losetup": "mount",
                "nbdkit": "nbdkit"}
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    found = [shutil.which(name, path=path) for name in names]
    for name, where in zip(names, found, strict=True):
        if where is None:
            pytest.skip(f"{name} is not installed: apt install {packages[name]}")
    return found


def environment():
    """Without what a sanitizer needs loaded into Python."""
    return {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}


def run(*command, code=0, seconds=60, **how):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True,
                          timeout=seconds, env=environment(), check=False, **how)
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sparse_image(path, size, seed=1):
    """A file of text, noise, words and holes."""
    dice = random.Random(seed)
    with open(path, "wb") as file:
        file.truncate(size)
        for _ in range(150):
            file.seek(dice.randrange(size // 512) * 512)
            part = dice.choice([text, noise])(dice.randrange(99), 16384)
            file.write(part[: min(len(part), size - file.tell())])
    return path


def same_content(a, b):
    with open(a, "rb") as one, open(b, "rb") as two:
        while True:
            x, y = one.read(MIB), two.read(MIB)
            if x != y:
                return False
            if not x:
                return True


@pytest.fixture
def server(serve, tmp_path):
    """Small pool, so that what the clients write goes to disk."""
    (tmp_path / "swap").mkdir()
    return serve("24M", memory_max="512K", swapfile=tmp_path / "swap")


def checked(server):
    """It was used for what the test is about, and nothing failed."""
    stats = server.stats()
    device = stats["device"]
    assert device["no_room"] == device["io_errors"] == device["refused"] == 0, device
    assert stats["counters"]["zswpwb"] > 100, "nothing went to disk"
    return device


# -- libnbd ---------------------------------------------------------------------------------------
def test_nbdinfo(serve):
    (nbdinfo,) = tools("nbdinfo")
    server = serve("10M", export="disk", unit_bytes="16K")
    (found,) = json.loads(run(nbdinfo, "--json", server.uris[0]))["exports"]
    assert found["export-size"] == 10 * MIB
    for can in ("is_read_only", "is_rotational"):
        assert found[can] is False
    for can in ("can_cache", "can_df", "can_fast_zero", "can_flush", "can_fua", "can_multi_conn",
                "can_trim", "can_zero"):
        assert found[can] is True, can
    assert (found["block_size_minimum"], found["block_size_preferred"],
            found["block_size_maximum"]) == (1, 16384, 32 * MIB)
    assert found["contexts"] == ["base:allocation"]
    listed = json.loads(run(nbdinfo, "--json", "--list", server.uris[0].replace("disk", "")))
    assert [one["export-name"] for one in listed["exports"]] == ["disk"]
    run(nbdinfo, server.uris[0].replace("disk", "other"), code=1)


def test_nbdinfo_map(serve, client_of):
    (nbdinfo,) = tools("nbdinfo")
    server = serve("10M")
    client = client_of(server)
    client.write(MIB, noise(1, 5000))
    client.zero(4 * MIB, MIB, 2)
    found = json.loads(run(nbdinfo, "--map", "--json", server.uris[0]))
    assert [(one["offset"], one["length"], one["type"]) for one in found] == [
        (0, MIB, 3), (MIB, 2 * UNIT, 0), (MIB + 2 * UNIT, 3 * MIB - 2 * UNIT, 3), (4 * MIB, MIB, 2),
        (5 * MIB, 5 * MIB, 3)]


@pytest.mark.parametrize("how", [[], ["--connections=2", "--requests=8", "--request-size=65536"],
                                 ["--synchronous"], ["--allocated", "--destination-is-zero"]])
def test_nbdcopy_both_ways(server, tmp_path, how):
    (nbdcopy,) = tools("nbdcopy")
    image = sparse_image(tmp_path / "image", 24 * MIB)
    run(nbdcopy, *how, image, server.uris[0])
    run(nbdcopy, *[h for h in how if h != "--destination-is-zero"], server.uris[0], tmp_path / "back")
    assert same_content(image, tmp_path / "back")
    assert checked(server)["requests"]["write"] > 10


def test_nbdcopy_from_server_to_server(server, serve, tmp_path):
    (nbdcopy,) = tools("nbdcopy")
    image = sparse_image(tmp_path / "image", 24 * MIB)
    other = serve("24M", unit_bytes="64K", memory_max="64M", threads=4)
    run(nbdcopy, image, server.uris[0])
    run(nbdcopy, server.uris[0], other.uris[0])
    run(nbdcopy, other.uris[0], tmp_path / "back")
    assert same_content(image, tmp_path / "back")


# -- qemu -----------------------------------------------------------------------------------------
def test_qemu_img(server, tmp_path):
    (img,) = tools("qemu-img")
    image = sparse_image(tmp_path / "image", 24 * MIB)
    uri = server.uris[0]
    run(img, "convert", "-n", "-f", "raw", "-O", "raw", image, uri)
    run(img, "compare", "-f", "raw", "-F", "raw", image, uri)
    run(img, "convert", "-f", "raw", "-O", "qcow2", uri, tmp_path / "back")
    run(img, "compare", "-f", "raw", "-F", "qcow2", image, tmp_path / "back")
    runs = json.loads(run(img, "map", "--output=json", "-f", "raw", uri))
    assert sum(one["length"] for one in runs) == 24 * MIB
    assert any(one["zero"] for one in runs) and any(one["data"] for one in runs)
    with open(image, "rb") as file:
        for one in runs:
            if one["zero"]:
                file.seek(one["start"])
                assert not any(file.read(one["length"]))
    checked(server)


def test_qemu_io(server):
    (io,) = tools("qemu-io")
    commands = [
        "write -P 0x5a 0 1M", "write -P 0xa5 512k 64k", "read -P 0x5a 0 512k", "read -P 0xa5 512k 64k",
        "write -z 1000 3000", "read -P 0 1000 3000", "read -P 0x5a 4000 96", "write -z -u 0 128k",
        "read -P 0 0 128k", "discard 128k 128k", "read -P 0 128k 128k", "flush",
        "aio_write -P 1 2M 64k", "aio_write -P 2 3M 64k", "aio_read -P 0 6M 64k", "aio_flush",
        "read -P 1 2M 64k", "read -P 2 3M 64k", "write -f -P 3 100 5", "read -P 3 100 5",
        "read -P 0 105 100"]
    out = run(io, "-f", "raw", *[x for c in commands for x in ("-c", c)], server.uris[0])
    assert "fail" not in out and "error" not in out.lower(), out
    assert out.count("wrote") + out.count("read ") >= 17


# -- fio ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("unit", "blocks"), [
    ("4K", ["--bsrange=512-128k", "--bs_unaligned"]), ("64K", ["--bsrange=1000-64k", "--bs_unaligned"]),
    ("16K", ["--bs=4k"])])
def test_fio_verifies(serve, tmp_path, unit, blocks):
    """Each byte is written once: of writes that overlap while under way, fio verifies the wrong one."""
    (fio,) = tools("fio")
    if "nbd" not in run(fio, "--enghelp").split():
        pytest.skip("this fio was built without its nbd engine")
    (tmp_path / "swap").mkdir()
    server = serve("8M", memory_max="512K", swapfile=tmp_path / "swap", unit_bytes=unit, threads=4)
    out = run(
        fio, "--name=check", "--ioengine=nbd", f"--uri={server.uris[0]}", "--rw=randrw", *blocks,
        "--size=8M", "--iodepth=16", "--verify=crc32c", "--verify_fatal=1", "--randseed=7",
        "--buffer_compress_percentage=40", "--output-format=json", cwd=tmp_path)
    (job,) = json.loads(out[out.index("{"):])["jobs"]
    assert job["error"] == 0
    assert job["read"]["total_ios"] > 50 and job["write"]["total_ios"] > 20
    device = server.stats()["device"]
    assert device["no_room"] == device["io_errors"] == device["refused"] == 0
    assert server.stats()["counters"]["zswpwb"] > 20, "nothing went to disk"


# -- a file system in the kernel ------------------------------------------------------------------
MOUNTED = """
set -eu
export PATH="$PATH:/usr/sbin:/sbin"
mount --make-rprivate /
mount -o noatime "$1" "$2"
mkdir "$2/d"
for i in $(seq 6); do cp -r "$3" "$2/d/copy$i"; done
rm -r "$2/d/copy2" "$2/d/copy4"
fstrim "$2" || true
sync
umount "$2"
mount -o ro "$1" "$2"
for i in 1 3 5 6; do diff -r "$3" "$2/d/copy$i"; done
test ! -e "$2/d/copy2"
umount "$2"
"""


@contextlib.contextmanager
def as_file(nbdfuse, uri, place):
    """The export as a file, through FUSE."""
    file = place / "nbd"
    file.touch()
    with subprocess.Popen([nbdfuse, str(file), uri], env=environment()) as fuse:
        try:
            until(lambda: file.stat().st_size > 0 or fuse.poll() is not None)
            assert fuse.poll() is None, "nbdfuse cannot mount here"
            yield file
        finally:
            for unmount in ("fusermount3", "fusermount"):
                if where := shutil.which(unmount):
                    subprocess.run([where, "-u", str(file)], check=False, env=environment())
                    break
            else:
                fuse.terminate()
            try:
                fuse.wait(20)
            except subprocess.TimeoutExpired:
                fuse.kill()


@contextlib.contextmanager
def as_loop(losetup, file):
    """A file as a block device, on a loop device that is free."""
    loop = run(losetup, "--find", "--show", file).strip()
    try:
        yield loop
    finally:
        run(losetup, "--detach", loop)


def test_a_file_system(serve, tmp_path):
    nbdfuse, mkfs, fsck, losetup = tools("nbdfuse", "mkfs.ext4", "e2fsck", "losetup")
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    if not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        pytest.skip("this kernel has no FUSE or no loop devices")
    (tmp_path / "swap").mkdir()
    server = serve("64M", memory_max="2M", swapfile=tmp_path / "swap")
    source, mounted = tmp_path / "files", tmp_path / "mounted"
    shutil.copytree(Path(sys.modules["coldmem"].__file__).parent / "zswap", source,
                    ignore=shutil.ignore_patterns("*.so"))
    (source / "noise").write_bytes(noise(1, 2 * MIB))
    mounted.mkdir()
    with as_file(nbdfuse, server.uris[0], tmp_path) as file, as_loop(losetup, file) as loop:
        run(mkfs, "-q", loop)
        run("unshare", "--mount", "sh", "-c", MOUNTED, "sh", loop, mounted, source)
        run(fsck, "-fn", loop)
        stored = server.stats()["zswap"]["units"]
        run("blkdiscard", loop)
        until(lambda: server.stats()["zswap"]["units"] < stored // 4)
    device = server.stats()["device"]
    assert device["no_room"] == device["io_errors"] == 0
    assert server.stats()["counters"]["zswpwb"] > 500, "nothing went to disk"
