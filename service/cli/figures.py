"""Figures of `-o`, by `rope_core.plots`."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rope_core import RopeError, plots
from rope_core.config import RopeConfig
from rope_core.diagnosis.result import Diagnosis, Difference, WorstElement
from rope_core.hf import Resolved
from service.cli.errors import InputError
from service.cli.rope_argument import STDIN, RopeArgument
from service.cli.service_calls import InProcess
from service.wire import Message


def write_wavelengths(rope: RopeArgument, options: Mapping[str, Any], file: Path) -> None:
    """Write a figure of how many positions each pair needs for a turn.

    Raises:
        InputError: the rope is refused, matplotlib is missing, or the file cannot be written.
    """
    with _figure_errors(file):
        plots.save(plots.wavelengths(_source(rope, options)), file)


def write_comparison(
    rope: RopeArgument, other: RopeArgument, options: Mapping[str, Any], file: Path
) -> None:
    """Write a figure of where two ropes differ.

    Raises:
        InputError: as `write_wavelengths`.
    """
    with _figure_errors(file):
        plots.save(plots.compare(_source(rope, options), _source(other, options))[0], file)


def write_diagnosis(answer: Message, file: Path) -> None:
    """Write a figure of the errors that a diagnosis has.

    Raises:
        InputError: as `write_wavelengths`.
    """
    values = answer.params.values
    worst = values["error"]["worst"]
    error = {**values["error"], "worst": worst and WorstElement(**worst)}
    found = Diagnosis(verdict=values["verdict"], error=Difference(**error), tensors=answer.tensors)
    with _figure_errors(file):
        plots.save(plots.diagnosis(found)[0], file)


def _source(rope: RopeArgument, options: Mapping[str, Any]) -> Resolved | RopeConfig | str:
    """Return the rope for a figure: the text of a path or a preset gives it a title."""
    given = any(value is not None for value in options.values())
    if rope.is_of_model and not given and rope.text != STDIN and "{" not in rope.text:
        return rope.text
    return InProcess().resolve(rope.with_options(options if rope.is_of_model else {}))


@contextmanager
def _figure_errors(file: Path) -> Iterator[None]:
    os.environ["MPLBACKEND"] = "agg"  # no window, and no display
    try:
        yield
    except (RopeError, ImportError) as error:
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(f"cannot write {file}: {error.strerror}") from None
