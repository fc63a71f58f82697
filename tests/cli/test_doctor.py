"""``coldmem doctor``: it tries for real, says what to do, and its exit code says whether it works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import coldmem
from coldmem.cli import main
from coldmem.errors import MissingLibraryError
from coldmem.lab import doctor
from coldmem.linux.userfaultfd import rights_here

RIGHTS = rights_here()
DEVICE = Path("/dev/userfaultfd")


def facts() -> dict[str, doctor.Fact]:
    return {fact.name: fact for fact in doctor.examine().facts}


def test_it_says_what_is_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["doctor", "--json"]) == (3 if RIGHTS == "none" else 0)
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "doctor" and found["settings"]["works"] == (RIGHTS != "none")
    by_name = {row["name"]: row["found"] for row in found["rows"]}
    assert by_name["delivery_handler"] == (RIGHTS == "full")
    assert by_name["delivery_sigbus"] == (RIGHTS != "none")
    assert by_name["default_delivery"] == {"full": "handler", "user": "sigbus"}.get(RIGHTS)
    assert by_name["machine_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert by_name["cpus"] == len(os.sched_getaffinity(0))
    assert by_name["lz4"] is True and "portable" in by_name["shuffle"]
    if RIGHTS != "none":
        assert by_name["features"]["write_protect"] and by_name["features"]["sigbus"]


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["doctor"])
    text = capsys.readouterr().out
    for word in ("userfaultfd()", "delivery", "swap file in", "lz4", "memory_max", "CPUs", "seccomp"):
        assert word in text
    assert ("a Memory works here" in text) == (RIGHTS != "none")


@pytest.mark.skipif(RIGHTS == "none", reason="no userfaultfd here")
def test_what_a_broken_delivery_looks_like(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.try_in_a_process("post").startswith("failed: ")
    monkeypatch.setattr(doctor, "try_in_a_process", lambda delivery: "failed: on purpose")
    report = doctor.examine()
    assert not report.works
    fact = next(f for f in report.facts if f.name == "delivery_sigbus")
    assert not fact.found and "on purpose" in fact.text and "report" in fact.advice


def test_without_any_userfaultfd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "rights_here", lambda: "none")
    monkeypatch.setattr(doctor, "features_here", lambda: 0)
    for why in ("Operation not permitted", "Function not implemented"):
        monkeypatch.setattr(
            doctor, "ways_here",
            lambda why=why: dict.fromkeys(("syscall", "device", "user_mode_only"), why))
        assert main.run(["doctor"]) == 3
        text = capsys.readouterr().out
        assert "no Memory works here" in text and "(1)" in text
        assert ("CONFIG_USERFAULTFD" in text) == (why == "Function not implemented")


@pytest.mark.parametrize(("device", "container", "said"), [
    (True, True, "chmod a+r"), (False, True, "--device"), (False, False, "sysctl"),
])
def test_how_to_get_the_full_rights(
    device: bool, container: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"/dev/userfaultfd": device, "/.dockerenv": container, "/run/.containerenv": False}
    real = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: there.get(path, real(path)))
    assert said in doctor._how_to_get_full()


def test_missing_libraries_and_poor_disks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def none(name: str) -> object:
        raise MissingLibraryError(f"install lib{name}")

    monkeypatch.setattr(doctor, "get_codec", none)
    monkeypatch.setattr(doctor, "in_memory", lambda directory: True)
    monkeypatch.setattr(doctor, "try_in_a_process", lambda delivery: "")
    found = facts()
    assert found["lz4"].found is False and found["lz4"].advice == "install liblz4"
    assert "tmpfs" in found["swap_directory"].advice
    monkeypatch.setattr(doctor, "in_memory", lambda directory: False)
    monkeypatch.setattr(doctor, "LITTLE_DISK_BYTES", 1 << 60)
    assert "make room" in facts()["swap_directory"].advice


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which needs root")
def test_as_an_unprivileged_user() -> None:
    code = (
        "import os, sys, coldmem.cli.main, coldmem.cli.doctor\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(coldmem.cli.main.run(['doctor', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(coldmem.__file__).parents[1]), "HOME": "/"},
    )
    if not done.stdout and ("Permission" in done.stderr or "ModuleNotFound" in done.stderr):
        pytest.skip("that user may not read this tree or this Python")
    found = {row["name"]: row for row in json.loads(done.stdout)["rows"]}
    assert found["cap_sys_ptrace"]["found"] is False
    if found["userfaultfd_user_mode_only"]["found"] and not found["userfaultfd_device"]["found"]:
        assert found["delivery_handler"]["found"] is False
        assert "chmod a+r /dev/userfaultfd" in found["delivery_handler"]["advice"] or not DEVICE.exists()
        if found["delivery_sigbus"]["found"]:
            assert done.returncode == 0
