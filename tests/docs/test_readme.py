"""What the README and CONTRIBUTING say works as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import coldmem
from coldmem.linux.userfaultfd import rights_here

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
ENGINE = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/api/zswap.md").read_text(), re.MULTILINE | re.DOTALL)

CACHE = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs/cache.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(rights_here() == "none", reason="no userfaultfd here: see `coldmem doctor`")
@pytest.mark.parametrize("code", EXAMPLES + ENGINE + CACHE, ids=range(len(EXAMPLES + ENGINE + CACHE)))
def test_the_example_runs(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(coldmem.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr


def test_the_examples_are_few_and_short():
    assert len(EXAMPLES) == 2
    assert len(EXAMPLES[1].splitlines()) <= 8
    assert len(CACHE) >= 6
    assert 5 <= len(EXAMPLES[0].splitlines()) <= 25
    assert len(ENGINE) == 1


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/experiment.md"])
def test_make_targets_exist(name):
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / name).read_text()
    used = set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.MULTILINE))
    assert used
    assert used <= targets


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_paths_exist(name):
    text = (ROOT / name).read_text()
    paths = re.findall(r"`((?:src|docs|tests|tools|\.ci)/[\w./-]*)`", text)
    paths += re.findall(r"\]\((?!http)([^)#]+)\)", text)
    assert paths
    assert not [path for path in paths if not (ROOT / path).exists()]


def test_figures_are_those_of_the_results():
    """Run `make figures` when this fails."""
    done = subprocess.run([sys.executable, ROOT / "tools" / "figures.py", "--check"])
    assert done.returncode == 0
