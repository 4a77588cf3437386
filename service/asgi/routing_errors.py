"""The texts of 404 and 405: the path, the nearest route, and the methods to use."""

import difflib
from collections.abc import Iterable

from service.errors import printable

MAX_PATH = 128
"""Longest path in a text, in characters."""

MAX_COMPARED = 64
"""Longest path that is compared with the routes: the time of a comparison grows with it."""

MIN_SIMILARITY = 0.6

MAX_LISTED = 8
"""Most routes that a text lists."""

VERSION = "/versions/{version}"


def describe_unknown_path(path: str, routes: Iterable[str]) -> str:
    """Return the text of a 404.

    Args:
        path: the path of the request.
        routes: paths of all routes.
    """
    text = f"no route {printable(path, MAX_PATH)}; "
    near = _near(path[:MAX_COMPARED], sorted(route for route in routes if VERSION not in route))
    if near:
        text += f"did you mean {' or '.join(near)}? "
    return f"{text}GET /docs lists all routes"


def nearest(name: str, names: list[str]) -> str | None:
    """Return the name that is most like `name`; None: no one is."""
    near = difflib.get_close_matches(name[:MAX_COMPARED], names, 1, MIN_SIMILARITY)
    return near[0] if near else None


def describe_method(method: str, path: str, allowed: Iterable[str]) -> str:
    """Return the text of a 405.

    Args:
        method: of the request.
        path: of the request.
        allowed: methods of the routes with that path.
    """
    methods = " or ".join(sorted(allowed))
    return f"{printable(path, MAX_PATH)} takes {methods}, got {printable(method, 16)}"


def _near(path: str, routes: list[str]) -> list[str]:
    """Return the route that differs by slashes only, the routes below the path, or the nearest."""
    bare = "/" + path.strip("/")
    if bare in routes:
        return [bare]
    below = [route for route in routes if route.startswith(f"{bare}/")]
    return below[:MAX_LISTED] or difflib.get_close_matches(path, routes, 1, MIN_SIMILARITY)
