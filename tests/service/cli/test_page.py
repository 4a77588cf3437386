"""The page of the command line: its examples are what the commands print."""

import re
import shlex

from service.command_line import COMMANDS
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "command-line.md").read_text()


def test_the_examples_are_what_the_commands_print(cli):
    examples = re.findall(r"```console\n\$ rope-service (.*)\n((?:.*\n)*?)```", PAGE)
    assert len(examples) == PAGE.count("$ rope-service ") == 2
    for command, expected in examples:
        assert cli(*shlex.split(command)).out.startswith(expected)


def test_each_command_is_on_the_page():
    for command in {*COMMANDS} - {"help", "version"}:
        assert re.search(rf"^\| `{command}\b", PAGE, re.MULTILINE), command
