"""Examples of errors for the OpenAPI document: `docs.generate` writes what a service answered."""

import json
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any

EXAMPLES: dict[str, dict[str, str]] = json.loads(
    (files(__package__) / "error_examples.json").read_text()
)
"""By name of the error's class: `cause`, `remedy`, and a text for each protocol that has the
error, under `/v1` or `/v2`."""


def error_examples(
    errors: Iterable[type[Exception]], protocol: str, render: Callable[[Exception], Any]
) -> dict[str, Any]:
    """Return OpenAPI's `examples` of errors, without errors that the protocol does not have.

    Args:
        errors: classes of errors.
        protocol: `/v1` or `/v2`.
        render: returns the document that answers an error.
    """
    examples = {}
    for error in errors:
        example = EXAMPLES[error.__name__]
        if protocol in example:
            name = re.sub(r"(?<!^)(?=[A-Z])", "_", error.__name__).lower()
            # the constructor of a class may take other arguments than a text
            value = render(error.__new__(error, example[protocol]))
            text = {"summary": example["cause"], "description": example["remedy"]}
            examples[name] = {**text, "value": value}
    return examples
