"""The error of a command that cannot be run with its input."""


class InputError(Exception):
    """An argument, a file or an answer is not usable. The text is for the user; exit code 2."""
