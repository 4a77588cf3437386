"""Recorded requests and answers: the bytes that clients rely on."""
