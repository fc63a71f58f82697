"""The command ``coldmem``: one file per subcommand."""
