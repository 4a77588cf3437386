"""A few of a test's many cases, in which all that its parameters may be occurs."""

from collections.abc import Hashable, Sequence
from itertools import combinations


def spread(cases: Sequence[Hashable], together: int = 1) -> list[int]:
    """Return places of cases in which every value of every parameter occurs.

    A case has a value for each parameter. With `together` of 2, every two values that come in one
    case anywhere do so among those returned.
    """
    first, second = ([set(combinations(enumerate(case), n)) for case in cases] for n in (1, 2))
    wanted = first if together == 1 else [one | two for one, two in zip(first, second, strict=True)]
    left, fresh = set().union(*wanted), set().union(*second)
    chosen = []
    while left:
        best = max(range(len(cases)), key=lambda i: (len(wanted[i] & left), len(second[i] & fresh)))
        chosen.append(best)
        left -= wanted[best]
        fresh -= second[best]
    return sorted(chosen or [0][: len(cases)])
