"""``python -m coldmem`` is the command ``coldmem``."""

from coldmem.cli.main import main

if __name__ == "__main__":
    main()
