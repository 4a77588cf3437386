"""Diagnose attention: inputs before the rotation, and outputs."""
