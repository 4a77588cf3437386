"""Name what a table of angles does differently from a rope."""

from rope_core.diagnosis.angle_table import AngleTable
from rope_core.diagnosis.calls import Clues, RotaryCall
from rope_core.diagnosis.ranking import Candidate


def name_angles(
    table: AngleTable, call: RotaryCall, clues: Clues, max_mistakes: int
) -> list[Candidate]:
    """Return calls that give the table, with at most `max_mistakes` mistakes made of `call`.

    The call itself is one of them, without mistakes, if it gives the table. Errors are those of
    `table.relative_error(predict(call, table.index))`.
    """
    raise NotImplementedError
