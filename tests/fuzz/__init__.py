"""Fuzzing: parsers by mutated bytes (atheris), and the service by its OpenAPI (schemathesis).

`make fuzz` runs both for a minute. `tests/test_fuzz_seeds.py` sends the kept seeds through the same
targets in every run of the suite.
"""
