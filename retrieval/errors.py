"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """What was given cannot be used; the message names it, what was expected and the cure.

    The command line prints the message as one line and exits with 1.
    """
