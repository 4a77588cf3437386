"""Errors of the cache."""


class UnsupportedModelCall(ValueError):
    """The model asks for attention that the session does not compute."""
