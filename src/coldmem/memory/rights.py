"""Which delivery the rights of this process permit. Owns nothing, takes no locks."""

from __future__ import annotations

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.linux.userfaultfd import rights_here


def choose_delivery(wanted: str) -> str:
    """"handler" or "sigbus": what `wanted` ("auto", too) comes to with the rights that we have."""
    if wanted not in ("auto", "handler", "sigbus"):
        raise UsageError(f"delivery={wanted!r}: choose 'auto', 'handler' or 'sigbus'")
    rights = rights_here()
    if rights == "none":
        raise EnvironmentFailure(
            "this system does not let the process serve its own page faults (userfaultfd): "
            "run `coldmem doctor` to see what is missing and how to permit it"
        )
    if wanted == "handler" and rights != "full":
        raise EnvironmentFailure(
            "delivery='handler' needs the right to serve faults of system calls: make "
            "/dev/userfaultfd readable, or use delivery='sigbus'; `coldmem doctor` says more"
        )
    if wanted == "auto":
        return "handler" if rights == "full" else "sigbus"
    return wanted
