"""The one exception that a user may see: a plain sentence, no traceback."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and how to mend it.

    The command line prints it and exits with code 2; from Python it is raised as it is.
    """


def run_script(main: Callable[[], None]) -> None:
    """Run a script's ``main``; a :class:`UserError` becomes one line on standard error, and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"{sys.argv[0]}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        sys.exit(2)
