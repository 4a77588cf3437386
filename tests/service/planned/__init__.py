"""Tests of planned requests."""
