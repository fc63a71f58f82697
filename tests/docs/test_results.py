"""The tables of the documentation: those of a file that is there, and a sentence where it is not."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

EXTENSION = Path(__file__).parents[2] / "docs" / "_ext" / "results.py"


@pytest.fixture
def show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: the text that ``.. results:: name`` comes to, with files in `tmp_path`."""
    pytest.importorskip("docutils", reason="docutils is not installed: the 'docs' extra has it")
    spec = importlib.util.spec_from_file_location("results_extension", EXTENSION)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    environment = SimpleNamespace(note_dependency=lambda path: None)
    document = SimpleNamespace(settings=SimpleNamespace(env=environment))

    def text(*names: str) -> str:
        state = SimpleNamespace(document=document)
        made = module.Results("results", list(names), {}, [], 1, 0, "", state,
                              SimpleNamespace(reporter=None))
        return "\n".join(node.astext() for node in made.run())

    return text


def test_results(show: Any, tmp_path: Path) -> None:
    assert "Nothing has been measured" in show("programs")
    assert "Nothing has been measured" in show()
    row = {"program": "sort", "system": "coldmem", "seconds": 1.25, "user_s": 77.5, "skipped": None}
    (tmp_path / "programs.json").write_text(json.dumps(
        {"name": "bench_programs", "machine": {"cpus": 2}, "settings": {"repeats": 3}, "rows": [row]}))
    for found in (show("programs"), show()):
        assert "bench_programs" in found and "coldmem" in found and "1.25" in found
        assert "ratio to no limit" in found and "77.5" not in found


def test_rows_of_several_parts_make_a_table_each(show: Any, tmp_path: Path) -> None:
    rows = [{"part": "one", "apples": 3}, {"part": "two", "pears": 4}, {"part": "one", "apples": 5}]
    (tmp_path / "fruit.json").write_text(json.dumps(
        {"name": "lab_fruit", "machine": {}, "settings": {}, "rows": rows}))
    text = show("fruit")
    assert text.index("One:") < text.index("apples") < text.index("Two:") < text.index("pears")
    assert "part" not in text and "\n5" in text
