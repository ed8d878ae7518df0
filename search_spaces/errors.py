"""The one error that the user can fix."""


class MisuseError(ValueError):
    """The request cannot be carried out; the message says what was wrong, what was expected and what to do.

    The command line prints it as one line on standard error and exits with 2. It is raised before anything
    is started or written.
    """
