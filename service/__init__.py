"""The application: rope_core behind HTTP."""

__version__ = "0.1.0"
