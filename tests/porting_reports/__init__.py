"""Public reports of wrong ports: their code, and what `rope_core.diagnose` says of the numbers."""
