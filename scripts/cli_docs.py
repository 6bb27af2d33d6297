#!/usr/bin/env python3
"""Generate docs/cli.md from the help of each command; with --check, say whether it is up to date."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

from mmolre.cli import app, main

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = "# The command line\n\nGenerated from the commands' own help by `make docs`; do not edit.\n"


def text() -> str:
    """The whole document."""
    parts = [
        HEAD,
        "Exit codes: 0 all went well; 2 bad input, said in one line; 3 done, but some rows could not be used;\n",
    ]
    parts[-1] += "130 stopped, by Ctrl-C or SIGTERM.\n"
    for command in _commands():
        title = " ".join(("mmolre", *command))
        parts.append(f"## {title}\n\n```text\n{_help(*command)}\n```\n")
    return "\n".join(parts)


def _commands() -> Iterator[tuple[str, ...]]:
    """Each command's words: the program, its commands, and theirs."""
    yield ()
    for name, command in app._subcommands.items():
        yield (name,)
        for below in getattr(command.target, "_subcommands", ()):
            yield name, below


def _help(*command: str) -> str:
    out = io.StringIO()
    with (
        patch.object(sys, "argv", ["mmolre", *command, "--help"]),
        patch.dict(os.environ, {"COLUMNS": "80", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.suppress(SystemExit),
    ):
        main()
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text():
            sys.exit(f"{TARGET.name} is not what the commands' help says: run `make docs`")
    else:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text(), encoding="utf-8")
