"""Read the command line: its settings, and one line for each thing that is wrong."""

import sys
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_settings import SettingsError

from service import __version__
from service.access import new_key
from service.errors import printable
from service.exit_codes import EXIT_CODES, WRONG_SETTING
from service.settings import PREFIX, Settings, nearest

TOOLS = ("inspect", "compare", "diagnose", "rotate", "presets", "variants", "doctor")
"""Commands of `service.cli`."""

COMMANDS = ("serve", "new-key", "help", "version", *TOOLS)

HELP = f"""\
rope-service {__version__}: rotary position embeddings and RoPE attention over HTTP and gRPC

commands:
  rope-service [serve]             serve at http://127.0.0.1:8000; see /docs there
  rope-service serve --help        list all settings: flags, variables, defaults
  rope-service serve --print-config
                                   print the settings in force as JSON
  rope-service new-key NAME        make an API key for a tenant
  rope-service inspect CONFIG      show what a config.json or a preset does to each pair
  rope-service compare A B         show where two configs differ
  rope-service diagnose FILE --rope CONFIG
                                   say which mistake explains rotated tensors that differ
  rope-service rotate IN OUT --rope CONFIG
                                   rotate tensors of a safetensors file
  rope-service presets [WORD]      list released models
  rope-service variants [NAME]     list variants of the frequencies
  rope-service doctor              check this machine
  rope-service --version           print the version

Each setting is a flag and a variable; the flag wins:
  rope-service serve --http-port 9000
  ROPE_HTTP_PORT=9000 rope-service serve

exit codes:
{"".join(f"  {code:3}  {meaning}" + chr(10) for code, meaning in EXIT_CODES.items())}"""


def fail(text: str) -> NoReturn:
    """End the process because of a wrong command line or a wrong setting."""
    sys.stderr.write(f"rope-service: {text}\n")
    raise SystemExit(WRONG_SETTING)


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


def run_command(command: str, arguments: list[str]) -> str:
    """Run a command other than `serve`, and return the text to print.

    Raises:
        SystemExit: there is no such command, or its arguments are not valid.
    """
    match command:
        case "help":
            return HELP
        case "version":
            return f"rope-service {__version__}\n"
        case "new-key":
            return new_key.run(arguments)
    near = nearest(command, COMMANDS)
    fail(f"unknown command {printable(command)}; did you mean {near}? See rope-service --help")


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
    return f"{setting} must be {_expectation(name)}, {got}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _expectation(name: str) -> str:
    """Return what the value of a setting must be, from the setting's schema."""
    schema = Settings.model_json_schema()["properties"][name]
    schema = schema.get("anyOf", [schema])[0]  # the other one is null
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kinds = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}
    text = kinds.get(schema["type"], "text")
    bounds = (
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
    )
    limits = [f"{words} {int(schema[key]):,}" for key, words in bounds if key in schema]
    return f"{text} {' and '.join(limits)}".strip()
