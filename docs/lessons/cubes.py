"""Figure of lesson 7: turns of space in two orders."""

import math

from docs.lessons.drawing import INK3, A, B, C, Point, arrow, path, svg, text
from docs.lessons.words import Words

Matrix = list[list[float]]


def turn(axis: str, angle: float) -> Matrix:
    """Return a turn about an axis of space."""
    c, s = math.cos(angle), math.sin(angle)
    if axis == "x":
        return [[1, 0, 0], [0, c, -s], [0, s, c]]
    return [[c, 0, s], [0, 1, 0], [-s, 0, c]]


def times(left: Matrix, right: Matrix) -> Matrix:
    """Return the product of two matrices."""
    return [
        [
            sum(a * b for a, b in zip(row, column, strict=True))
            for column in zip(*right, strict=True)
        ]
        for row in left
    ]


VIEW = times(turn("x", 0.45), turn("y", -0.5))
FACES = (
    ((0, 1), C),
    ((0, -1), "#9ccfc0"),
    ((1, 1), A),
    ((1, -1), "#9cc0dc"),
    ((2, 1), B),
    ((2, -1), "#dfb894"),
)


def cube(centre: Point, size: float, turned: Matrix) -> list[str]:
    """Return the six faces of a cube, those behind first."""
    seen = times(VIEW, turned)
    drawn = []
    for (axis, side), colour in FACES:
        others = [i for i in range(3) if i != axis]
        corners = []
        for u, v in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            corner = [0.0, 0.0, 0.0]
            corner[axis], corner[others[0]], corner[others[1]] = side, u, v
            corners.append([sum(a * b for a, b in zip(row, corner, strict=True)) for row in seen])
        depth = sum(c[2] for c in corners)
        points = [(centre[0] + size * c[0], centre[1] - size * c[1]) for c in corners]
        drawn.append((depth, path(points, "#fff", 1.2, fill=colour, closed=True)))
    return [shape for _, shape in sorted(drawn)]


def lesson_7(words: Words) -> str:
    """Two orders of two turns of a cube."""
    quarter = math.pi / 2
    none = turn("x", 0.0)
    parts = []
    for row, (first, second, label) in enumerate(
        (("x", "y", "first about x, then about y"), ("y", "x", "first about y, then about x"))
    ):
        y = 92.0 + 158 * row
        states = [none, turn(first, quarter), times(turn(second, quarter), turn(first, quarter))]
        parts.append(text((24, y - 60), words(label), "b"))
        for i, (state, name) in enumerate(zip(states, ("start", "step 1", "step 2"), strict=True)):
            x = 120.0 + 200 * i
            parts += cube((x, y + 4), 26, state)
            parts.append(text((x, y + 66), words(name), "n", "middle"))
            if i:
                parts.append(arrow((x - 130, y), (x - 72, y), INK3, 1.6))
    parts += [
        path([(600, 96), (616, 96), (616, 254), (600, 254)], INK3, 1.2),
        text((626, 179), words("not the same end"), "b"),
    ]
    return svg(752, 328, words("Two turns of a cube in two orders"), parts)
