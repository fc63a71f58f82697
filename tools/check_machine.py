"""Say, before anything is built, what this machine lacks to build coldmem. Runs on any Python 3."""
# ruff: noqa: UP031

import os
import shutil
import sys
import sysconfig

OLDEST = (3, 11)


def missing():
    """Sentences, one for each thing that is missing."""
    version = "%d.%d" % sys.version_info[:2]
    if sys.version_info < OLDEST:
        yield "Python %d.%d or later is needed; %s is %s." % (*OLDEST, sys.executable, version)
        return
    if not sys.platform.startswith("linux"):
        yield "Linux is needed; this is %s." % sys.platform
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        yield "%s cannot make virtual environments: install python%s-venv." % (
            sys.executable, version)
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    if not os.path.exists(header):
        yield "%s is missing: install python%s-dev." % (header, version)
    compiler = os.environ.get("CC", "").split() or (sysconfig.get_config_var("CC") or "cc").split()
    if shutil.which(compiler[0]) is None:
        yield "The C compiler %r is not on the PATH: install gcc, or set CC." % compiler[0]


if __name__ == "__main__":
    problems = list(missing())
    for problem in problems:
        print("coldmem: " + problem, file=sys.stderr)
    sys.exit(1 if problems else 0)
