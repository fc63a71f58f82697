"""``coldmem nbd`` as a process: ready, served, told, stopped; what it prints and what it leaves."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import pytest
from nbd_client import Client
from unit_data import UNIT, noise, text

from coldmem.cli.main import run
from coldmem.nbd import Trace


class Served:
    """A running ``coldmem nbd``; it has said that it is ready."""

    def __init__(self, tmp_path, *options, size="4M"):
        self.path = str(tmp_path / "s")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "coldmem", "nbd", "--size", size, "--socket", self.path,
             "--memory-max", "1M", *map(str, options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.ready = self.process.stdout.readline()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        assert not os.path.exists(self.path)
        return out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_served_and_stopped(tmp_path, number):
    with Served(tmp_path, "--swapfile", tmp_path) as served:
        assert served.ready == f"serving 4.0 MiB at nbd+unix:///?socket={served.path}\n"
        assert stat.S_IMODE(os.stat(served.path).st_mode) == 0o600
        with Client(served.path) as client:
            client.go()
            for i in range(400):
                client.write(i * UNIT, noise(i))
            assert client.read(0, 400 * UNIT) == b"".join(noise(i) for i in range(400))
            out, err = served.stop(number)  # with a client connected
        assert "stored 1.6 MiB in 1.6 MiB, 1.00 to 1" in out
        assert "1 connections: 1 read, 400 write" in out
        written = int(out.split("; ")[1].split(" units written back")[0])
        assert written > 150
        assert err == ""
        assert os.listdir(tmp_path) == []


def test_statistics_on_request(tmp_path):
    stats = tmp_path / "stats.json"
    with Served(tmp_path, "--stats-file", stats, "--lock-statistics", "--json") as served:
        assert json.loads(served.ready)["ready"] is True
        with Client(served.path) as client:
            client.go().write(0, text(1))
            served.process.send_signal(signal.SIGUSR1)
            for _ in range(2000):
                if stats.exists():
                    break
                time.sleep(0.005)
            assert json.loads(stats.read_text())["device"]["requests"]["write"] == 1
            client.write(UNIT, text(2))
        out, _ = served.stop()
    assert json.loads(stats.read_text())["device"]["requests"]["write"] == 2
    assert json.loads(out)["zswap"]["units"] == 2
    assert os.listdir(tmp_path) == ["stats.json"]


def test_statistics_on_stderr(tmp_path):
    with Served(tmp_path) as served:
        served.process.send_signal(signal.SIGUSR1)
        time.sleep(0.1)
        _, err = served.stop()
    assert json.loads(err)["size_bytes"] == 4 << 20


def test_a_record(tmp_path):
    with Served(tmp_path, "--record", tmp_path / "t.npz", "--codec", "zstd", "--unit", "16K") as served:
        with Client(served.path) as client:
            client.go().write(0, text(1, 16384) + bytes(16384))
            client.read(0, 16384)
        out, _ = served.stop()
    assert "recorded 3 operations" in out
    trace = Trace.load(tmp_path / "t.npz")
    assert trace.op.tolist() == [0, 0, 1]
    assert trace.unit_bytes == 16384 and trace.codec == "zstd"
    assert trace.machine["cpus"]
    assert 0 < trace.nbytes[0] < 16384 and trace.nbytes[1] == 0 and trace.nbytes[2] == trace.nbytes[0]


def test_nobody_reads_what_it_prints(tmp_path):
    with Served(tmp_path) as served:
        served.process.stdout.close()
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0
        assert served.process.stderr.read() == ""


def test_locked_in_memory(tmp_path):
    """All of it, and yet what is freed goes back; VmLck counts address space, so look at the rest."""
    with Served(tmp_path, "--lock-memory", "--memory-max", "64M", size="64M") as served:
        if not served.ready:
            err = served.process.stderr.read()
            assert "CAP_IPC_LOCK" in err and "RLIMIT_MEMLOCK" in err
            pytest.skip("the right to lock memory is missing, and it says so")

        def resident():
            with open(f"/proc/{served.process.pid}/status") as file:
                return {k: int(v.split()[0]) << 10 for k, v in
                        (line.split(":") for line in file if line.startswith(("VmRSS", "VmLck")))}

        assert resident()["VmLck"] > 32 << 20
        assert resident()["VmRSS"] < 200 << 20  # and not the gigabytes that are reserved
        with Client(served.path) as client:
            client.go()
            before = resident()["VmRSS"]
            for i in range(0, 40, 4):
                client.write(i << 20, noise(i, 4 << 20))
            full = resident()["VmRSS"]
            assert full - before > 36 << 20
            client.trim(0, 64 << 20)
            assert resident()["VmRSS"] < before + (24 << 20)
        served.stop()


def test_without_the_right_to_lock(tmp_path):
    """As a user without CAP_IPC_LOCK and with a small limit."""
    if os.geteuid() != 0:
        pytest.skip("only root can give the right away")
    code = """
import ctypes, resource, sys
from coldmem.cli.main import run
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
assert ctypes.CDLL(None).prctl(24, 14, 0, 0, 0) == 0  # CAP_IPC_LOCK, for what comes after exec
libc = ctypes.CDLL(None)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)()
assert libc.capget(header, data) == 0
for word in (0, 1):  # effective and permitted
    data[word] &= ~(1 << 14)
assert libc.capset(header, data) == 0
sys.exit(run(["nbd", "--size", "1M", "--socket", sys.argv[1], "--lock-memory"]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    assert "CAP_IPC_LOCK" in done.stderr and "RLIMIT_MEMLOCK" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("options", "code", "what"), [
    ([], 2, "--size"),
    (["--size", "1M"], 2, "--socket, --tcp or --file"),
    (["--size", "many", "--socket", "s"], 2, "many"),
    (["--size", "1M", "--socket", "s", "--unit", "5K"], 2, "choose 4096"),
    (["--size", "1M", "--socket", "s", "--codec", "x"], 2, "x"),
    (["--size", "1M", "--socket", "s", "--record", "t.txt"], 2, "npz"),
    (["--size", "1M", "--socket", "s", "--record", "no/t.npz"], 3, "no directory"),
    (["--size", "1M", "--socket", "s", "--stats-file", "no/t.json"], 3, "no directory"),
    (["--size", "1M", "--socket", "s", "--swapfile", "no/t"], 3, "no such directory"),
    (["--size", "1M", "--tcp", "host.invalid:1"], 3, "cannot listen"),
])
def test_mistakes_are_explained(tmp_path, monkeypatch, capsys, options, code, what):
    monkeypatch.chdir(tmp_path)
    assert run(["nbd", *options]) == code
    assert what in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
