"""Figures of lessons 4 to 6: many pairs, their scores and their wavelengths."""

import math
import random

from docs.lessons.drawing import (
    GRID,
    INK,
    INK2,
    INK3,
    LINE,
    MIX,
    A,
    B,
    C,
    Point,
    arc,
    arrow,
    box,
    circle,
    line,
    on_circle,
    path,
    svg,
    text,
)
from docs.lessons.words import Words
from rope_core import resolve


def lesson_4(words: Words) -> str:
    """Eight of 64 clocks, and the matrix of four pairs."""
    parts = [text((24, 28), words("position 100: each pair has turned at its own speed"), "b")]
    for i in range(8):
        pair = 8 * i
        centre = (64.0 + 86 * (i % 4), 92.0 + 118 * (i // 4))
        angle = 100 * 10_000 ** (-pair / 64)
        parts += [
            circle(centre, 32, LINE, width=1.5),
            line(centre, (centre[0] + 32, centre[1]), INK3, 0.8),
            path(arc(centre, 26, 0, min(angle, 6.28)), A, 2.5, opacity=0.45),
            arrow(centre, on_circle(centre, 32, angle), A),
            text((centre[0], centre[1] + 48), f"{words('pair')} {pair}", "n", "middle"),
        ]
    parts.append(text((396, 28), words("R at position 1, first four pairs of a head of 8"), "b"))
    cell, x0, y0 = 39.0, 396.0, 42.0
    for row in range(8):
        for column in range(8):
            value, angle = 0.0, 10.0 ** -(row // 2)
            if row // 2 == column // 2:
                value = (
                    math.cos(angle) if row == column else math.sin(angle) * (1 if row % 2 else -1)
                )
            at = (x0 + cell * column, y0 + 28 * row)
            if value:
                parts.append(box(at, (cell, 28), A if value > 0 else B, 0.08 + 0.3 * abs(value)))
            label = f"{value:.3f}".replace("-", "−") if value else "0"
            centre = (at[0] + cell / 2, at[1] + 18)
            parts.append(text(centre, label, "m", "middle"))
    parts.append(
        path(
            [(x0, y0), (x0 + 8 * cell, y0), (x0 + 8 * cell, y0 + 224), (x0, y0 + 224)],
            LINE,
            1,
            closed=True,
        )
    )
    title = words("Eight of 64 clocks at position 100, and a block-diagonal matrix")
    return svg(720, 285, title, parts)


def lesson_5(words: Words) -> str:
    """What distance does to a score: every whole distance is drawn."""
    generator = random.Random(7)
    pairs = [[generator.gauss(0, 1) for _ in range(256)] for _ in range(6)]

    def score(weights: list[complex], theta: float, distance: int) -> float:
        turned = (
            (w * complex(math.cos(distance * f), math.sin(distance * f))).real
            for w, f in zip(weights, (theta ** (-i / 64) for i in range(64)), strict=True)
        )
        return sum(turned)

    def curve(left: float, values: list[float], scale: float) -> list[Point]:
        return [(left + 300 * d / 256, 130 - scale * v) for d, v in enumerate(values)]

    parts = []
    for left, title in (
        (40.0, "q = k: highest where it is"),
        (390.0, "six random q and k: no decay"),
    ):
        parts += [
            text((left, 28), words(title), "b"),
            *(line((left, y), (left + 300, y), GRID) for y in (50, 90, 170, 210)),
            line((left, 130), (left + 300, 130), INK3, 0.8),
            text((left - 8, 134), "0", "n", "end"),
            *(text((left + 300 * d / 256, 232), str(d), "n", "middle") for d in (0, 64, 128)),
            text((left + 300, 232), f"{words('distance')} 256", "n", "end"),
        ]
    parts.append(text((32, 54), "1", "n", "end"))
    for theta, colour, dash, y in ((10_000.0, A, "", 148), (500_000.0, B, "5 3", 64)):
        values = [score([1 / 64 + 0j] * 64, theta, d) for d in range(257)]
        parts.append(path(curve(40, values, 80), colour, 2.2, dash))
        label = f"b = {theta:,.0f}".replace(",", " ")
        parts.append(text((338, y), label, "a" if colour == A else "k", "end"))
    for i, values in enumerate(pairs):
        weights = [
            complex(values[4 * j], values[4 * j + 1]).conjugate()
            * complex(values[4 * j + 2], values[4 * j + 3])
            for j in range(64)
        ]
        norm = math.sqrt(sum(abs(w) ** 2 for w in weights)) * 2.2
        drawn = [score(weights, 10_000.0, d) / norm for d in range(257)]
        parts.append(path(curve(390, drawn, 80), [A, B, C, MIX, INK2, INK3][i], 1.3))
    return svg(
        720, 245, words("Score of 64 pairs by distance: equal vectors, and random ones"), parts
    )


WAYS = (
    ("linear, 8", {"rope_type": "linear", "factor": 8.0}),
    ("ntk, 8", {"rope_type": "ntk", "factor": 8.0}),
    (
        "yarn, 8",
        {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192},
    ),
    (
        "llama3, 8",
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
)


def lesson_6(words: Words) -> str:
    """Wavelengths of four ways to stretch, beside those without."""
    plain = resolve({"head_dim": 128, "theta": 500_000.0}).inv_freq.tolist()
    parts = []
    for i, (name, rope) in enumerate(WAYS):
        scaled = resolve({"head_dim": 128, "theta": 500_000.0, **rope}).inv_freq.tolist()
        parts += _panel(62.0 + 160 * i, name, plain, scaled, words)
    parts.append(text((20, 16), words("positions for one turn"), "n"))
    for decade, label in ((0, "1"), (2, "100"), (4, "10⁴"), (6, "10⁶"), (8, "10⁸")):
        parts.append(text((56, _height(decade) + 4), label, "n", "end"))
    for length, label in ((8192, "trained"), (65536, "allowed")):
        at = (674, _height(math.log10(length)) + 4)
        parts.append(text(at, f"{words(label)} {length:,}".replace(",", " "), "n"))
    title = words("Positions for one turn of each pair, for four ways to stretch")
    return svg(780, 262, title, parts)


def _height(decade: float) -> float:
    return 52 + 180 * (1 - min(decade, 8.0) / 8)


def _panel(
    left: float, name: str, plain: list[float], scaled: list[float], words: Words
) -> list[str]:
    def curve(frequencies: list[float]) -> list[Point]:
        turns = [math.log10(2 * math.pi / f) for f in frequencies]
        return [(left + 124 * i / 63, _height(decade)) for i, decade in enumerate(turns)]

    def level(decade: float, colour: str, dash: str = "") -> str:
        y = _height(decade)
        return line((left, y), (left + 124, y), colour, dash=dash)

    return [
        text((left, 34), name, "b"),
        *(level(decade, GRID) for decade in (0, 2, 4, 6, 8)),
        path(curve(plain), INK3, 1.4, "4 3"),
        path(curve(scaled), A, 2.2),
        level(math.log10(8192), INK),
        level(math.log10(65536), INK, "2 3"),
        text((left, 248), f"{words('pair')} 0", "n"),
        text((left + 124, 248), "63", "n", "end"),
    ]
