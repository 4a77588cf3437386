"""Functions of tensors: rotate and attend, given in the forms that users have."""

from rope_core.functional.arguments import RopeWarning
from rope_core.functional.attention import attend
from rope_core.functional.rotation import rotate

__all__ = ["RopeWarning", "attend", "rotate"]
