"""Fuzzing of the parsers (atheris) and of the service by its OpenAPI document (schemathesis).

`make fuzz` runs both for about a minute. `tests/test_fuzz_seeds.py` runs the targets on the stored
seeds in every run of the suite.
"""
