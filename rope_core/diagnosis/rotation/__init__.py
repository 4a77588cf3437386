"""Diagnose rotations: tensors before and after."""
