"""A measurement in a process of its own: an object as JSON in on stdin, an object out on stdout.

Owns: one child at a time, which has ended when `run_child` returns or raises, also on Ctrl-C.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

from coldmem.errors import InternalError

LAST_WORDS = 1500  # of what a child wrote to stderr, in characters


class KilledError(Exception):
    """SIGKILL ended the child: the kernel found nothing to take out of its cgroup."""


class TooSlowError(Exception):
    """The child did not end in time."""


def run_child(module: str, case_json: str, what: str, seconds_max: float) -> dict[str, Any]:
    """What ``python -m module`` prints.

    Parameters
    ----------
    module : str
        Its dotted name.
    case_json : str
        What it reads.
    what : str
        Names the case in a message.
    seconds_max : float
        It is killed after so long.

    Raises
    ------
    KilledError, TooSlowError
        See there.
    InternalError
        It ended with another code than 0.
    """
    with subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:
        try:
            out, problem = child.communicate(case_json, seconds_max)
        except subprocess.TimeoutExpired:
            raise TooSlowError(f"{what}: not done after {seconds_max:.0f} s") from None
        finally:
            child.kill()  # does nothing once it has ended
            child.wait()  # `with` would not, after Ctrl-C
    if child.returncode == -signal.SIGKILL:
        raise KilledError(f"{what}: killed")
    if child.returncode != 0:
        raise InternalError(
            f"{what}: the case ended with {child.returncode}: "
            f"{problem.strip()[-LAST_WORDS:] or 'no message'}"
        )
    found: dict[str, Any] = json.loads(out)
    return found
