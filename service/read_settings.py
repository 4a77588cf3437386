"""Read the settings of `rope-service serve`, with one line for each thing that is wrong."""

import sys
from typing import Any

from pydantic import ValidationError
from pydantic_settings import SettingsError

from service.command_line import fail
from service.errors import printable
from service.settings import PREFIX, Settings, nearest


def read_settings(arguments: list[str]) -> Settings:
    """Return the settings of a command line and the environment.

    Raises:
        SystemExit: a flag or a value is not valid; or the arguments ask for a text only.
    """
    try:
        settings = Settings(
            _cli_parse_args=[a for a in arguments if a != "--print-config"],
            _cli_prog_name="rope-service serve [--print-config]",
            _cli_exit_on_error=False,
        )
    except SettingsError as failure:
        fail(_describe_usage_error(str(failure)))
    except ValidationError as failure:
        errors = failure.errors(include_url=False)
        fail("\nrope-service: ".join(_describe_value_error(error, arguments) for error in errors))
    if "--print-config" in arguments:
        sys.stdout.write(settings.model_dump_json(indent=2) + "\n")
        raise SystemExit(0)
    return settings


def _describe_usage_error(text: str) -> str:
    """Return a line for an error of argparse."""
    text = text.removeprefix("error parsing CLI: ")
    prefix = "unrecognized arguments: "
    if not text.startswith(prefix):
        return printable(text, 256)
    name = text.removeprefix(prefix).strip().partition(" ")[0].partition("=")[0]
    if not name.startswith("-"):
        return f"unexpected argument {printable(name)}; see rope-service serve --help"
    flag = nearest(name, map(_flag, Settings.model_fields))
    return f"unknown flag {printable(name)}; did you mean {flag}? See rope-service serve --help"


def _describe_value_error(error: Any, arguments: list[str]) -> str:
    """Return a line for an error of pydantic: the setting, what it must be, and what came."""
    if not error["loc"]:
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    flag = _flag(name)
    is_flag = any(argument.partition("=")[0] == flag for argument in arguments)
    setting = flag if is_flag else PREFIX + name.upper()
    got = f"got '{printable(error['input'])}'"
    if error["type"] == "value_error":
        return f"{setting} {error['ctx']['error']}, {got}"
    schema = _schema(name)
    if schema.get("writeOnly"):
        got = "got another text"  # a secret
    return f"{setting} must be {_expectation(schema)}, {got}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _schema(name: str) -> dict[str, Any]:
    """Return the schema of a setting."""
    schema: dict[str, Any] = Settings.model_json_schema()["properties"][name]
    forms: list[dict[str, Any]] = schema.get("anyOf", [schema])
    return forms[0]  # the other one is null


def _expectation(schema: dict[str, Any]) -> str:
    """Return what the value of a setting must be, from its schema."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kinds = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
    text = kinds.get(schema["type"], "text")
    bounds = (
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
    )
    if "minLength" in schema:
        text = f"{text} of at least {schema['minLength']} characters"
    limits = [f"{words} {int(schema[key]):,}" for key, words in bounds if key in schema]
    return f"{text} {' and '.join(limits)}".strip()
