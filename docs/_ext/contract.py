"""``.. contract:: zsmalloc/core.py``: the docstring that opens a module, as part of a page.

A module's docstring is its contract: what it owns and guarantees, which locks it takes. Pages show
that text itself, so that they cannot say something else.
"""

import ast
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

SRC = Path(__file__).parents[2] / "src" / "coldmem"


class Contract(Directive):
    """One module, or with a folder's name all modules in it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = SRC / self.arguments[0]
        if path.is_dir():
            files = sorted(p for p in path.glob("*.py") if p.name != "__init__.py")
        else:
            files = [path]
        out: list[nodes.Node] = []
        for file in files:
            out += self.one(file)
        return out

    def one(self, path: Path) -> list[nodes.Node]:
        self.state.document.settings.env.note_dependency(str(path))
        text = ast.get_docstring(ast.parse(path.read_text()))
        if not text:
            raise self.error(f"{path} has no docstring")
        name = path.relative_to(SRC).as_posix()
        holder = nodes.container(classes=["contract"])
        lines = StringList(f"**{name}**: {text}".splitlines(), str(path))
        self.state.nested_parse(lines, 0, holder)
        return [holder]


def setup(app):
    app.add_directive("contract", Contract)
    return {"version": "1", "parallel_read_safe": True}
