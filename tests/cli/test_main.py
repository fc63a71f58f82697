"""The command line itself: exit codes, clear errors, options with several values."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

from coldmem.cli import main
from coldmem.cli.options import SeveralValues, _spread
from coldmem.errors import InternalError, MemoryLimitError


def test_python_dash_m_shows_the_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "coldmem", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert {"run", "doctor", "demo", "lab", "bench"} <= set(done.stdout.split())


@pytest.mark.parametrize("command", [["run"], ["doctor"], ["demo"],
                                     ["lab", "locks"], ["lab", "fragmentation"],
                                     ["bench", "engine"], ["bench", "codecs"]])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "--json" in text and "Usage" in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("coldmem ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nix"], "No such command 'nix'"),
        (["lab", "nix"], "No such command 'nix'"),
        (["demo", "--max-pool", "5x"], "'5x' is not a size"),
        (["demo", "--max-pool", "1K"], "--max-pool must be 64 units or more"),
        (["demo", "--threads", "0"], "0 is not in the range"),
        (["demo", "--unit", "5K"], "choose 4K, 16K or 64K"),
        (["demo", "--codec", "nix"], "no codec 'nix'"),
        (["lab", "locks", "--arm", "nix"], "'nix' is not one of"),
        (["lab", "locks", "--threads"], "requires an argument"),
        (["lab", "locks", "--threads", "two"], "'two' is not a valid integer"),
        (["lab", "locks", "--plot", "x.jpeg"], ".png, .svg or .pdf"),
        (["lab", "locks", "--threads", "900", "--objects", "16"], "at least one object each"),
        (["lab", "fragmentation", "--live", "2"], "2 is not in the range"),
        (["bench", "engine", "--corpus", "nix"], "'nix' is not one of"),
        (["bench", "engine", "--bytes", "4K"], "two units or more"),
        (["bench", "codecs", "--codec", "nix"], "no codec 'nix'"),
    ],
)
def test_a_wrong_option_is_one_clear_error(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    got = capsys.readouterr()
    assert said in got.err
    assert "Traceback" not in got.err and got.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryLimitError("there is no room"), 3),
        (InternalError("a bug"), 70),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
        (click.Abort(), 130),
    ],
)
def test_exit_codes(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **kwargs: object) -> object:
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setattr(main.os, "dup2", lambda a, b: b)
    assert main.run([]) == code
    said = capsys.readouterr().err
    assert str(error) in said and len(said.splitlines()) <= 1


OPTIONS = {
    "--threads": click.Option(["--threads"], multiple=True, type=int),
    "--arm": click.Option(["--arm"], multiple=True),
}


@pytest.mark.parametrize(
    ("given", "spread"),
    [
        (["--threads", "1", "2", "32"], ["--threads=1", "--threads=2", "--threads=32"]),
        (["--threads=1,2"], ["--threads=1", "--threads=2"]),
        (["--threads", "1,2", "8", "--arm", "x"],
         ["--threads=1", "--threads=2", "--threads=8", "--arm=x"]),
        (["--json", "--arm", "a", "b", "--json"], ["--json", "--arm=a", "--arm=b", "--json"]),
        (["--arm", "a", "--arm", "b"], ["--arm=a", "--arm=b"]),
        (["--threads"], ["--threads"]),
        (["--threads", "--json"], ["--threads", "--json"]),
        (["--other", "1", "2"], ["--other", "1", "2"]),
    ],
)
def test_several_values(given: list[str], spread: list[str]) -> None:
    assert _spread(given, OPTIONS) == spread


def test_several_values_reach_the_command() -> None:
    @click.command(cls=SeveralValues)
    @click.option("--threads", multiple=True, type=int)
    @click.option("--one", type=int)
    def command(threads: tuple[int, ...], one: int) -> None:
        assert (threads, one) == ((1, 2, 32), 5)

    command.main(["--threads", "1", "2", "32", "--one", "5"], standalone_mode=False)
