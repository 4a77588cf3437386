"""All known mistakes."""
