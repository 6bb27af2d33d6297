"""The one exception that a user may see: a plain sentence, no traceback."""


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, where, and how to mend it.

    The command line prints it and exits with code 2; from Python it is raised as it is.
    """
