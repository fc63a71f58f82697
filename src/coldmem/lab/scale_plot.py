"""The picture of ``coldmem lab scale``: throughput over cores, use of the busiest lock, memory wasted.

Owns nothing. Colours and markers of the arms are those of the locking experiment's picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldmem.lab.locks_plot import STYLES
from coldmem.lab.result import Result
from coldmem.lab.scale_model import LABELS, LINE_ARM, MODEL_ARMS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARM_STYLES = STYLES | {LINE_ARM: {"color": "#56B4E9", "marker": "o", "linestyle": ":"}}


def draw(result: Result, path: Path) -> None:
    """Draw `result` into `path`; the ending says the format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows: list[Any] = result.rows
    workloads = list(dict.fromkeys(r["workload"] for r in rows if r.get("part") == "scale"))
    memory = [r for r in rows if r.get("part") == "memory"]
    columns = len(workloads) + bool(memory)
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axes = pyplot.subplots(
            2, columns, figsize=(1.2 + 3.7 * columns, 6.4), squeeze=False,
            gridspec_kw={"height_ratios": [3, 2]}, layout="constrained")
        for column, workload in enumerate(workloads):
            mine = [r for r in rows if r.get("workload") == workload]
            _speeds(axes[0][column], mine, workload)
            _use(axes[1][column], mine)
        if memory:
            _wasted(axes[0][-1], memory)
            _per_byte(axes[1][-1], memory)
        handles, labels = axes[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(4, 2 * columns - 1),
                      frameon=False)
        settings = result.settings
        figure.suptitle(
            "Ways of locking over cores, simulated: one thread a core, "
            f"{settings['objects_per_core']} objects a core\n"
            f"calibrated on {settings['calibrated_cpu']}, {result.machine['cpus']} CPUs", fontsize=10)
        figure.savefig(path, dpi=110)
        pyplot.close(figure)


def _curve(rows: list[Any], table: str, arm: str, key: str) -> tuple[list[int], list[float]]:
    mine = sorted((r["cores"], r[key]) for r in rows if r.get("part") == table and r["arm"] == arm)
    return [x for x, _ in mine], [y for _, y in mine]


def _arms(rows: list[Any]) -> list[str]:
    there = {r["arm"] for r in rows}
    return [name for name in MODEL_ARMS if name in there]


def _speeds(axes: Axes, rows: list[Any], title: str) -> None:
    for name in _arms(rows):
        x, y = _curve(rows, "scale", name, "mops_per_s")
        axes.plot(x, y, label=LABELS[name], markersize=4, linewidth=1.5, **ARM_STYLES[name])
        full = [r for r in rows if r.get("part") == "saturation" and r["arm"] == name
                and r["saturates_at_cores"] is not None]
        if full:
            at = full[0]["saturates_at_cores"]
            axes.plot([at], [y[x.index(at)]], linestyle="none", marker="o", markersize=11,
                      markerfacecolor="none", markeredgecolor=ARM_STYLES[name]["color"])
    x, y = _curve(rows, "scale", _arms(rows)[0], "cores")
    one = min(r["mops_per_s"] for r in rows if r.get("part") == "scale" and r["cores"] == x[0])
    axes.plot(x, [one * n / x[0] for n in x], color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.annotate("as many times as cores", (x[-1], one * x[-1] / x[0]), color="#888888", fontsize=7,
                  ha="right", va="bottom", xytext=(-2, 2), textcoords="offset points")
    axes.set_title(f"{title}\nrings: twice the cores add less than 10 %", fontsize=9)
    axes.set_yscale("log")
    axes.set_ylabel("million operations per second")
    _cores_axis(axes, x)


def _use(axes: Axes, rows: list[Any]) -> None:
    x: list[int] = []
    for name in _arms(rows):
        x, y = _curve(rows, "scale", name, "busiest_lock_use")
        axes.plot(x, [100 * v for v in y], markersize=3, linewidth=1.2, **ARM_STYLES[name])
    axes.set_ylim(0, 102)
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.set_ylabel("busiest lock is held")
    _cores_axis(axes, x)


def _wasted(axes: Axes, rows: list[Any]) -> None:
    x: list[int] = []
    for name in _arms(rows):
        x, y = _curve(rows, "memory", name, "wasted_bytes")
        axes.plot(x, [v / 2**20 for v in y], markersize=4, linewidth=1.5, **ARM_STYLES[name])
    axes.set_title("memory wasted\nmeasured on real pools", fontsize=9)
    axes.set_ylabel("MiB used beyond what is stored")
    axes.set_ylim(bottom=0)
    _cores_axis(axes, x)


def _per_byte(axes: Axes, rows: list[Any]) -> None:
    x: list[int] = []
    for name in _arms(rows):
        x, y = _curve(rows, "memory", name, "fragmentation")
        axes.plot(x, y, markersize=3, linewidth=1.2, **ARM_STYLES[name])
    axes.set_ylabel("bytes used per byte stored")
    axes.set_ylim(bottom=1)
    _cores_axis(axes, x)


def _cores_axis(axes: Axes, counts: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set_xlabel("cores")
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
