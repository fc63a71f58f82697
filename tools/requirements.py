"""Print the requirements that pyproject.toml lists: of the build, or of an extra."""

import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())


def requirements(name: str) -> list[str]:
    if name == "build":
        return PROJECT["build-system"]["requires"]
    return PROJECT["project"]["optional-dependencies"][name]


if __name__ == "__main__":
    print(*requirements(sys.argv[1]))
