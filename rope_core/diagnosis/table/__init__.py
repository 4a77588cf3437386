"""Diagnose tables of cosine and sine, and rows of frequencies."""
