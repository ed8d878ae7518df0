"""The errors that users are told of in one line: their own mistakes, and faults of the machine."""

import os


class MisuseError(ValueError):
    """The request cannot be carried out; the message says what was wrong, what was expected and what to do.

    The command line prints it as one line on standard error and exits with 2. It is raised before anything
    is started or written.
    """


class MachineError(RuntimeError):
    """The machine, its storage or its Ray failed; the message says what failed and what to do.

    The command line prints it as one line on standard error and exits with 1. Rows that were stored before are kept.
    """


def reason(error: Exception) -> str:
    """Why something failed: the operating system's words for it, without path and number, or else the error's first line."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else (str(error).strip().splitlines() or [repr(error)])[0]
