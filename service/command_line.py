"""Commands of `rope-service`, and their help. It imports no pydantic, which takes long."""

import sys
from typing import NoReturn

from service import __version__
from service.errors import printable
from service.exit_codes import EXIT_CODES, WRONG_SETTING

TOOLS = (
    "inspect",
    "compare",
    "diagnose",
    "rotate",
    "presets",
    "variants",
    "top",
    "bench",
    "doctor",
)
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
  rope-service top [URL]           show what a service does now
  rope-service bench [URL]         measure requests a second, and latency
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
            from service.access import new_key

            return new_key.run(arguments)
    from service.settings import nearest

    near = nearest(command, COMMANDS)
    fail(f"unknown command {printable(command)}; did you mean {near}? See rope-service --help")
