"""Figures of lessons 1 to 3: one pair of numbers on a circle."""

import math

from docs.lessons.drawing import (
    GRID,
    INK,
    INK2,
    INK3,
    LINE,
    A,
    B,
    C,
    Point,
    arc,
    arrow,
    circle,
    line,
    on_circle,
    path,
    svg,
    text,
)
from docs.lessons.words import Words


def plane(centre: Point, radius: float, words: Words) -> list[str]:
    """Return a unit circle with its axes."""
    x, y = centre
    reach = radius + 22
    return [
        circle(centre, radius, LINE, width=1.5),
        line((x - reach, y), (x + reach, y), INK3, 0.8),
        line((x, y + reach), (x, y - reach), INK3, 0.8),
        text((x + reach, y + 15), words("real"), "n", "end"),
        text((x + 6, y - reach + 8), words("imaginary"), "n"),
    ]


def lesson_1(words: Words) -> str:
    """The circle, and cosine and sine beside it."""
    centre, radius, angle = (135.0, 130.0), 88.0, 2.2
    at = on_circle(centre, radius, angle)
    left, right, middle, unit = 290.0, 690.0, 130.0, 88.0

    def place(x: float, value: float) -> Point:
        return left + (right - left) * x / (2 * math.pi), middle - unit * value

    curve = [i * 2 * math.pi / 120 for i in range(121)]
    parts = [
        *plane(centre, radius, words),
        path(arc(centre, 24, 0, angle), INK2, 1.4),
        path(arc(centre, radius, 0, angle), A, 3),
        text(on_circle(centre, 36, angle / 2), "x", "i b"),
        line(centre, (at[0], centre[1]), A, 2.6),
        line((at[0], centre[1]), at, B, 2.6, "5 3"),
        arrow(centre, at, INK),
        text((at[0] - 8, at[1] - 10), "eⁱˣ", "i b", "end"),
        text(((centre[0] + at[0]) / 2, centre[1] + 16), "cos x", "i a", "middle"),
        text((at[0] - 8, (centre[1] + at[1]) / 2 + 4), "sin x", "i k", "end"),
        *(line((left, middle - unit * v), (right, middle - unit * v), GRID) for v in (-1, 1)),
        line((left, middle), (right, middle), INK3, 0.8),
        *(
            text((left - 8, middle - unit * v + 4), f"{v}".replace("-", "−"), "n", "end")
            for v in (-1, 0, 1)
        ),
        path([place(x, math.cos(x)) for x in curve], A, 2.2),
        path([place(x, math.sin(x)) for x in curve], B, 2.2, "5 3"),
        line(place(angle, 1), place(angle, -1), INK2, 1),
        circle(place(angle, math.cos(angle)), 4, A, A),
        circle(place(angle, math.sin(angle)), 4, B, "#fff", 2),
        text((place(angle, 0)[0] + 7, middle + unit + 16), "x = 2.2", "b"),
        line(place(math.pi, 1), place(math.pi, -1), INK3, 1, "2 3"),
        text((place(math.pi, 0)[0] + 6, middle - unit - 8), "x = π :  eⁱˣ = −1", "b"),
        text((left, middle + unit + 16), "0", "n", "middle"),
        text((right, middle + unit + 16), "2π", "n", "middle"),
        text((right - 36, place(6.1, math.cos(6.1))[1] - 8), "cos", "i a"),
        text((place(5.0, 0)[0] + 8, place(5.0, math.sin(5.0))[1] - 10), "sin", "i k"),
    ]
    title = words("The unit circle, with cosine and sine unrolled beside it")
    return svg(720, 260, title, parts)


def lesson_2(words: Words) -> str:
    """One turn in three forms, with the same digits."""
    centre, unit, angle = (110.0, 175.0), 56.0, 0.7
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (2 * cos - sin, 2 * sin + cos)

    def place(v: Point) -> Point:
        return centre[0] + unit * v[0], centre[1] - unit * v[1]

    rows = [
        ("complex product", "(2 + i) · e⁰·⁷ⁱ", f"= {turned[0]:.4f} + {turned[1]:.4f} i"),
        (
            "2 × 2 matrix",
            f"[ {cos:.4f}  −{sin:.4f} ;  {sin:.4f}  {cos:.4f} ] [ 2 ; 1 ]",
            f"= [ {turned[0]:.4f} ; {turned[1]:.4f} ]",
        ),
        (
            "element by element",
            "[ 2 ; 1 ] cos 0.7 + [ −1 ; 2 ] sin 0.7",
            f"= [ {turned[0]:.4f} ; {turned[1]:.4f} ]",
        ),
    ]
    start = math.atan2(1, 2)
    parts = [
        path(arc(centre, unit * math.sqrt(5), -0.15, start + angle + 0.5), LINE, 1.5),
        line((centre[0] - 70, centre[1]), (centre[0] + 155, centre[1]), INK3, 0.8),
        line((centre[0], centre[1] + 30), (centre[0], centre[1] - 150), INK3, 0.8),
        arrow(centre, place((2, 1)), INK3),
        arrow(centre, place(turned), A),
        path(arc(centre, 44, start, start + angle), INK2, 1.4),
        text(on_circle(centre, 54, start + angle / 2), "0.7", "b"),
        text((place((2, 1))[0] + 4, place((2, 1))[1] - 4), "2 + i", "i"),
        text(
            (place(turned)[0] - 6, place(turned)[1] - 8),
            f"{turned[0]:.2f} + {turned[1]:.2f} i",
            "i a",
        ),
        text((centre[0] - 70, centre[1] + 52), words("length before and after: 2.2361"), "n"),
    ]
    for i, (name, product, result) in enumerate(rows):
        y = 34 + 78 * i
        parts += [
            text((330, y), words(name), "b"),
            text((330, y + 21), product, "i"),
            text((330, y + 43), result, "i a"),
            line((330, y + 56), (700, y + 56), GRID),
        ]
    title = words("A vector before and after a turn, and three ways to compute it")
    return svg(720, 250, title, parts)


def lesson_3(words: Words) -> str:
    """Query and key turn together: the score stays."""
    centre, radius, theta = (165.0, 140.0), 95.0, 0.21
    q, k, m, n = 0.35, 0.9, 11, 5
    to_q, to_k = on_circle(centre, radius, q + m * theta), on_circle(centre, radius, k + n * theta)
    left, right, middle, unit = 330.0, 690.0, 130.0, 75.0

    def trace(key_moves: bool) -> list[Point]:
        points = []
        for step in range(257):
            at = step / 4
            other = at - (m - n) if key_moves else n
            score = math.cos(q + at * theta - k - other * theta)
            points.append((left + (right - left) * at / 64, middle - unit * score))
        return points

    score = math.cos(q - k + (m - n) * theta)
    parts = [
        *plane(centre, radius, words),
        arrow(centre, to_q, A),
        arrow(centre, to_k, B, dash="5 3"),
        path(arc(centre, 34, k + n * theta, q + m * theta), C, 3),
        text((to_q[0] - 4, to_q[1] - 8), words("query at m = 11"), "a", "middle"),
        text((to_k[0] - 10, to_k[1] - 10), words("key at n = 5"), "k", "middle"),
        text((left, 30), words("score, while m runs from 0 to 64"), "b"),
        *(line((left, middle - unit * v), (right, middle - unit * v), GRID) for v in (-1, 0, 1)),
        *(
            text((left - 8, middle - unit * v + 4), f"{v}".replace("-", "−"), "n", "end")
            for v in (-1, 0, 1)
        ),
        path(trace(False), INK3, 1.6, "4 3"),
        path(trace(True), C, 2.6),
        line(
            (left + (right - left) * m / 64, middle - unit),
            (left + (right - left) * m / 64, middle + unit),
            INK2,
        ),
        circle((left + (right - left) * m / 64, middle - unit * score), 4.5, C, C),
        text((left + (right - left) * m / 64, middle + unit + 16), "11", "n b", "middle"),
        text((left, middle + unit + 16), "0", "n", "middle"),
        text((right, middle + unit + 16), "64", "n", "middle"),
        line((left, middle + unit + 36), (left + 24, middle + unit + 36), C, 2.6),
        text((left + 30, middle + unit + 40), words("both move: level"), "c"),
        line((left + 160, middle + unit + 36), (left + 184, middle + unit + 36), INK3, 1.6, "4 3"),
        text((left + 190, middle + unit + 40), words("the key stays: it swings")),
    ]
    title = words("A query at position 11, a key at position 5, and their score")
    return svg(720, 275, title, parts)
