"""``.. command:: lab locks``: the help text of a command, as it prints it."""

import os
import subprocess
import sys

from docutils import nodes
from docutils.parsers.rst import Directive


class Command(Directive):
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        words = self.arguments[0].split() if self.arguments else []
        done = subprocess.run(
            [sys.executable, "-m", "coldmem", *words, "--help"], capture_output=True, text=True,
            env=os.environ | {"COLUMNS": "90", "NO_COLOR": "1"},
        )
        if done.returncode:
            raise self.error(f"coldmem {' '.join(words)} --help: {done.stderr}")
        text = done.stdout.replace("python -m coldmem", "coldmem")
        return [nodes.literal_block(text, text, language="text")]


def setup(app):
    app.add_directive("command", Command)
    return {"version": "1", "parallel_read_safe": True}
