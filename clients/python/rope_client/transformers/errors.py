"""What the cache refuses."""


class UnsupportedModelCall(ValueError):
    """The model asks for attention that the session does not compute."""
