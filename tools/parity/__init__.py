"""Checks of `rope_core.hf` against the classes of transformers; `make parity` runs them."""
