"""`rope-service compare`: where two configs differ, and from which position on that is visible."""

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from service.cli.highlight import highlight
from service.cli.output import console, count_text, new_table, number_text, value_text
from service.cli.rope_argument import RopeArgument
from service.cli.service_calls import Caller
from service.wire import Message

PATH = "/v1/compare"


def compare(
    caller: Caller, rope: RopeArgument, other: RopeArgument, options: Mapping[str, Any]
) -> Message:
    """Compare two ropes.

    Args:
        caller: what compares.
        rope: the first rope.
        other: the second.
        options: of each of the two that is a model's.

    Raises:
        InputError: a rope is refused.
    """
    params = {
        name: each.with_options(options if each.is_of_model else {})
        for name, each in (("rope", rope), ("other", other))
    }
    return caller.call(PATH, {}, params)


def print_comparison(answer: Message, title: str, other: str) -> None:
    """Print the verdict, the parameters that differ, and how far the angles are apart.

    Args:
        answer: of `/v1/compare`.
        title: name of the first config.
        other: name of the second.
    """
    out, values = console(), answer.params.values
    verdict = ("same", "good") if values["same"] else ("different", "bad")
    out.print(Text.assemble((title, "bold"), " and ", (other, "bold"), "  ", verdict))
    out.print(highlight(values["summary"]))
    if values["differences"]:
        headings = ("parameter", title, other, "key")
        table = new_table(*headings, left=headings)
        for row in values["differences"]:
            shown = (value_text(row[name]) for name in ("rope", "other"))
            table.add_row(row["parameter"], *shown, row["config_key"] or "")
        out.print()
        out.print(table)
    if values["angles"] and not values["same"]:
        table = new_table("position", "largest difference of an angle, rad")
        for row in values["angles"]:
            table.add_row(count_text(row["position"]), number_text(row["largest"]))
        out.print()
        out.print(table)
