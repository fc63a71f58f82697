"""The picture of the locking experiment: throughput above, waiting below, a column per workload.

Owns nothing. Colours are Okabe and Ito's, told apart by colour-blind eyes and in grey; each arm has a
marker of its own as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldmem.lab.arms import ARMS
from coldmem.lab.result import Result, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES: dict[str, dict[str, Any]] = {
    "pools32": {"color": "#000000", "marker": "s", "linestyle": "--"},
    "pool": {"color": "#D55E00", "marker": "v"},
    "class": {"color": "#0072B2", "marker": "o"},
    "handle": {"color": "#009E73", "marker": "D"},
    "handle_magazine": {"color": "#CC79A7", "marker": "^"},
}
TITLES = {
    ("alloc", "none"): "alloc\nthe allocator alone",
    ("compact", "none"): "compact\nwhile objects are moved",
    ("zswap", "none"): "zswap, no codec\nunits compressed before",
    ("zswap", "lz4"): "zswap, lz4\nunder a memory limit",
}


def draw(result: Result, path: Path) -> None:
    """Draw `result` of ``lab locks`` into `path`; the ending says the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [k for k in TITLES if any((r["workload"], r["codec"]) == k for r in result.rows)]
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            2, len(panels), figsize=(1.2 + 2.9 * len(panels), 5.6), squeeze=False,
            gridspec_kw={"height_ratios": [3, 2]}, layout="constrained",
        )
        for column, key in enumerate(panels):
            rows = [r for r in result.rows if (r["workload"], r["codec"]) == key]
            _speeds(axes[0][column], rows, TITLES[key])
            _waits(axes[1][column], rows)
        axes[0][0].set_ylabel("million operations per second")
        axes[1][0].set_ylabel("share of thread time\nspent waiting for locks")
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5 if len(panels) > 2 else 2, frameon=False)
        facts = result.machine
        figure.suptitle(
            f"One pool or 32, and five ways of locking: {facts['cpu_model']}, {facts['cpus']} CPUs"
            f"\nruns per point: {result.settings['repeats']}; their median, and bars from the slowest to "
            "the fastest",
            fontsize=10,
        )
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _arms(rows: Sequence[Row]) -> list[str]:
    there = {row["arm"] for row in rows}
    return [name for name in ARMS if name in there]


def _x(rows: Sequence[Row]) -> list[int]:
    return sorted({int(str(row["threads"])) for row in rows})


def _speeds(axes: Axes, rows: Sequence[Row], title: str) -> None:
    counts = _x(rows)
    for name in _arms(rows):
        mine: dict[Any, Any] = {row["threads"]: row for row in rows if row["arm"] == name}
        x = [i for i, count in enumerate(counts) if count in mine]
        here = [mine[counts[i]] for i in x]
        y = [row["mops_per_s"] for row in here]
        low = [row["mops_per_s"] - row["mops_per_s_min"] for row in here]
        high = [row["mops_per_s_max"] - row["mops_per_s"] for row in here]
        axes.errorbar(
            x, y, yerr=[low, high], label=ARMS[name].label, capsize=2, markersize=5,
            elinewidth=0.8, linewidth=1.5, **STYLES[name],
        )
    axes.set_title(title, fontsize=9)
    axes.set_ylim(bottom=0)
    _threads_axis(axes, counts)


def _waits(axes: Axes, rows: Sequence[Row]) -> None:
    counts = _x(rows)
    arms = _arms(rows)
    width = 0.8 / len(arms)
    for number, name in enumerate(arms):
        mine = {row["threads"]: row["wait_share"] for row in rows if row["arm"] == name}
        x = [i + (number - (len(arms) - 1) / 2) * width for i in range(len(counts))]
        y = [100 * float(str(mine.get(count, 0))) for count in counts]
        axes.bar(x, y, width * 0.9, color=STYLES[name]["color"])
    axes.set_ylim(0, max(5.0, axes.get_ylim()[1]))
    axes.yaxis.set_major_formatter("{x:.0f} %")
    _threads_axis(axes, counts)


def _threads_axis(axes: Axes, counts: Sequence[int]) -> None:
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set_xlabel("threads")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
