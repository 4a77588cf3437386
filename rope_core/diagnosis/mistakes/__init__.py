"""All known mistakes: importing this package registers them."""

from rope_core.diagnosis.mistakes import application, structure

__all__ = ["application", "structure"]
