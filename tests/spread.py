"""A few of a test's many cases, in which all that its parameters may be occurs."""

from collections import Counter
from collections.abc import Hashable, Sequence


def spread(cases: Sequence[Sequence[Hashable]]) -> list[int]:
    """Return places of cases in which every value of every parameter occurs, evenly.

    A case has a value for each parameter.
    """
    values = [{*enumerate(case)} for case in cases]
    left = set().union(*values)
    used: Counter[tuple[int, Hashable]] = Counter()
    chosen = []
    while left:
        best = max(
            range(len(cases)),
            key=lambda i: (len(values[i] & left), -sum(used[value] for value in values[i])),
        )
        chosen.append(best)
        left -= values[best]
        used.update(values[best])
    return sorted(chosen or [0][: len(cases)])
