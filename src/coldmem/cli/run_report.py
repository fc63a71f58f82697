"""What ``coldmem run`` says at the end: one screen on stderr, and one JSON object in a file.

Plain text: a program that is ending does not wait for a table library.
"""

from __future__ import annotations

import sys
from typing import Any

from coldmem.cli.program import Program
from coldmem.units import format_bytes

Found = dict[str, Any]


def show(found: Found | None, seconds: float) -> None:
    """Print the report to stderr. `found`: what `WholeProgram.stats` gave."""
    print("\n".join(lines(found, seconds)), file=sys.stderr, flush=True)


def lines(found: Found | None, seconds: float) -> list[str]:
    """The report, line by line."""
    if found is None:
        return [f"coldmem: {seconds:.2f} s; the program did not use NumPy, and nothing was managed"]
    size = {key: format_bytes(value) for key, value in found.items() if key.endswith("_bytes")}
    rows = [
        ("time", f"{seconds:.2f} s; CPU {found['cpu_user_s']:.2f} s user, "
                 f"{found['cpu_system_s']:.2f} s system" + _own_cpu(found)),
        ("arrays", f"{found['arrays_taken']:,} of {size['arrays_taken_bytes']} in all, "
                   f"{format_bytes(found['array_bytes_peak'])} at the same time; "
                   f"{found['arrays']:,} of {size['array_bytes']} alive now"
                   + _refused(found)),
        ("footprint", f"{size['footprint_peak_bytes']} at its peak, of {size['memory_max_bytes']} "
                      f"(--memory-max); now {size['footprint_bytes']}"),
        ("now", f"{size['hot_bytes']} hot, {size['compressed_bytes']} compressed, "
                f"{size['swap_bytes']} on disk, {size['metadata_bytes']} metadata"),
        ("ratio", _ratio(found)),
        ("faults", f"{found['faults']:,}: {found['fills']:,} units touched first, "
                   f"{found['loads']:,} decompressed ({found['readahead']:,} ahead of need), "
                   f"{found['write_faults']:,} first writes to clean units"),
        ("reclaim", f"{found['compressed']:,} units compressed, {found['reused']:,} dropped whose copy "
                    f"was still good; sweeps: {found['background']:,} in the background, "
                    f"{found['direct']:,} in a thread that waited"),
        ("with", f"delivery {found['delivery']}, units of {size['unit_bytes']}, "
                 f"--swap-max {size['swap_max_bytes']}"),
    ]
    return ["coldmem:", *(f"  {name:<10} {text}" for name, text in rows)]


def _own_cpu(found: Found) -> str:
    ours = {
        key[len("cpu_"):-len("_s")]: value for key, value in found.items()
        if key.startswith("cpu_") and key not in ("cpu_user_s", "cpu_system_s")
    }
    if not ours:
        return ""
    return "; of it in " + ", ".join(f"{name} {value:.2f} s" for name, value in sorted(ours.items()))


def _refused(found: Found) -> str:
    n = found["allocations_refused"]
    return f"; {n:,} refused for want of room" if n else ""


def _ratio(found: Found) -> str:
    ratio = found["ratio"]
    return "nothing is compressed now" if ratio is None else f"{ratio:.2f} bytes in one, of what is now"


def write(path: str, what: Program, found: Found | None, seconds: float) -> None:
    """The same as JSON, with the machine it ran on."""
    from coldmem.lab.result import Result

    settings: dict[str, object] = {
        "program": "-c" if what.code else what.target,
        "module": what.module, "arguments": list(what.arguments),
    }
    row = {"seconds": seconds, **(found or {"arrays_taken": 0})}
    try:
        with open(path, "w") as file:
            file.write(Result("run", settings, [row]).to_json() + "\n")
    except OSError as error:
        print(f"coldmem: --json {path}: {error.strerror}", file=sys.stderr)
