"""``.. results::``: tables of what was measured, read from docs/results/*.json.

Figures are never typed by hand. A file is what a ``bench`` or ``lab`` command printed with
``--json``: ``{"name": ..., "machine": {...}, "settings": {...}, "rows": [{...}, ...]}``. Rows that have
a ``part`` make a table for each part, with the columns of its own rows.
"""

import json
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive, directives

FOLDER = Path(__file__).parents[1] / "results"
NOTHING = "Nothing has been measured for this version yet."
# Columns of files whose rows have more than fit on a page; ``:columns:`` says otherwise.
COLUMNS = {
    "build": [
        "arm", "repeat", "real_s", "user_s", "sys_s", "server_user_s", "server_sys_s", "fuse_cpu_s",
        "kernel_threads_cpu_s", "total_cpu_s", "machine_busy_s", "pages_out", "pages_in",
        "written_back", "pool_peak_bytes", "pool_peak_original_bytes", "total_peak_bytes",
        "lock_waits", "lock_wait_s", "psi_memory_some_s", "killed", "failure", "first_difference",
    ],
    "memory": [
        "corpus", "workload", "threads", "system", "delivery", "mb_per_s", "mb_per_s_min",
        "mb_per_s_max", "fault_p50_us", "fault_p99_us", "access_mean_us", "ratio", "ratio_idle",
        "footprint_peak_bytes", "memory_max_bytes",
    ],
    "backends.density": [
        "corpus", "codec", "units", "backend", "mean_object_bytes", "used_per_stored",
        "objects_per_page", "refused_objects", "ratio", "codec_ratio",
    ],
    "backends.speed": [
        "arm", "threads", "put_mops_per_s", "read_mops_per_s", "free_mops_per_s",
        "churn_mops_per_s", "churn_mops_per_s_min", "churn_mops_per_s_max",
        "churn_ratio_to_zsmalloc_class", "churn_cpu_ns_per_op", "wait_share",
    ],
    "backends.fragmentation": [
        "corpus", "codec", "arm", "live_objects", "fragmentation", "compacted_fragmentation",
        "moved_objects",
    ],
    "programs": [
        "program", "system", "seconds", "seconds_min", "seconds_max", "ratio_to_no_limit",
        "coldmem_ratio", "work_s", "work_ratio_to_no_limit", "coldmem_work_ratio",
        "footprint_peak_bytes", "allowed_bytes", "faults", "result", "killed_runs", "skipped", "failed",
    ],
}


def text_of(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, dict):
        return ", ".join(f"{k} {text_of(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    return str(value)


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """Keys in the order in which they first appear; nested objects are left out."""
    seen: dict[str, None] = {}
    for row in rows:
        seen.update(dict.fromkeys(k for k, v in row.items() if not isinstance(v, dict | list)))
    return list(seen)


def parts_of(
    rows: list[dict[str, Any]], only: str | None = None
) -> list[tuple[str | None, list[dict[str, Any]]]]:
    """Rows by their ``part``, or all in one where they have none; without the key itself."""
    found: dict[str | None, list[dict[str, Any]]] = {}
    for row in rows:
        rest = {key: value for key, value in row.items() if key != "part"}
        found.setdefault(row.get("part"), []).append(rest)
    return [(part, some) for part, some in found.items() if only in (None, part)]


def table(columns: list[str], rows: list[dict[str, Any]]) -> nodes.table:
    group = nodes.tgroup(cols=len(columns))
    group += [nodes.colspec(colwidth=max(len(c), 6)) for c in columns]
    head, body = nodes.thead(), nodes.tbody()
    head += _row([c.replace("_", " ") for c in columns])
    body += [_row([text_of(row.get(c)) for c in columns]) for row in rows]
    group += [head, body]
    outer = nodes.table()
    outer += group
    return outer


def _row(cells: list[str]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        entry = nodes.entry()
        entry += nodes.paragraph(text=cell)
        row += entry
    return row


class Results(Directive):
    """All files, or the one that is named; a file that is not there yet is no error."""

    optional_arguments = 1
    option_spec = {"columns": directives.unchanged, "part": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        names = [FOLDER / f"{self.arguments[0]}.json"] if self.arguments else sorted(
            FOLDER.glob("*.json"))
        out: list[nodes.Node] = []
        for path in names:
            environment.note_dependency(str(path))
            if not path.exists():
                continue
            data = json.loads(path.read_text())
            section = nodes.section(ids=[nodes.make_id(f"results-{path.stem}")])
            section += nodes.title(text=data["name"])
            for key in ("machine", "settings"):
                section += nodes.paragraph(text=f"{key.capitalize()}: {text_of(data[key])}.")
            for part, rows in parts_of(data["rows"], self.options.get("part")):
                if part:
                    section += nodes.paragraph(text=f"{part.capitalize()}:")
                wanted = self.options.get("columns", "").split()
                wanted = wanted or COLUMNS.get(f"{path.stem}.{part}" if part else path.stem)
                section += table(wanted or columns_of(rows), rows)
            out.append(section)
        if not out:
            out.append(nodes.paragraph(text=NOTHING))
        return out


def setup(app):
    app.add_directive("results", Results)
    # A new file must be noticed although no page names it.
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: ["results"])
    return {"version": "1", "parallel_read_safe": True}
