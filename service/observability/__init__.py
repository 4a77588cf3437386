"""Metrics, log lines and identifiers of requests."""
