"""Diagnose: which mistake explains numbers that differ from those of a rope."""
