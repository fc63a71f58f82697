"""No thread that lives when a Memory is made goes on blocking SIGBUS, where faults are delivered by it.

Threads that come later are seen to by sigcalls.py. Owns nothing; the lock is for who makes a Memory.
"""

from __future__ import annotations

import os
import signal
import threading
import warnings
from typing import Final

from coldmem.linux.blocked import unblock_elsewhere

_lock: Final = threading.Lock()
os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


def unblock_sigbus() -> None:
    """In this thread and all others; a `RuntimeWarning` names those where it cannot be done."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGBUS})
    with _lock:
        left = unblock_elsewhere(signal.SIGBUS)
    if left:
        warnings.warn(
            f"threads of this process block the signal SIGBUS ({', '.join(left)}): the kernel will "
            "end the process when one of them touches an array that is not in RAM. Make the Memory "
            "before they are started, or use delivery='handler'",
            RuntimeWarning, stacklevel=3,
        )
