"""The one error that is the user's to mend."""


class MisuseError(ValueError):
    """What was asked for cannot be done; the message says what was wrong, what was expected, what to do.

    The command line prints it as one line on standard error and exits with 2. Nothing was started and nothing
    was written when it is raised.
    """
