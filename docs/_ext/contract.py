"""``.. contract:: zsmalloc/core.py``: the docstring that opens a module, as part of a page.

A module's docstring is its contract: what it owns and guarantees, which locks it takes. Pages show
that text itself, so that they cannot say something else.
"""

import ast
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

SRC = Path(__file__).parents[2] / "src" / "coldmem"


class Contract(Directive):
    required_arguments = 1
    option_spec: ClassVar[dict] = {}

    def run(self) -> list[nodes.Node]:
        path = SRC / self.arguments[0]
        environment = self.state.document.settings.env
        environment.note_dependency(str(path))
        text = ast.get_docstring(ast.parse(path.read_text()))
        if not text:
            raise self.error(f"{path} has no docstring")
        lines = StringList(f"**{self.arguments[0]}**: {text}".splitlines(), str(path))
        holder = nodes.container(classes=["contract"])
        self.state.nested_parse(lines, 0, holder)
        return [holder]


def setup(app):
    app.add_directive("contract", Contract)
    return {"version": "1", "parallel_read_safe": True}
