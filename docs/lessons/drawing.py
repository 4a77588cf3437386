"""Still figures as SVG text: shapes, axes and arrows, with the colours of the page of the service."""

import math
from collections.abc import Iterable
from html import escape

A, B, C, MIX = "#0060a8", "#b3560b", "#007a5a", "#5b4a9a"
INK, INK2, INK3, LINE, GRID = "#16191d", "#4a525c", "#6b737d", "#dfe1e0", "#e9eaea"
STYLE = (
    "text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans','PingFang SC',"
    "'Microsoft YaHei','Noto Sans CJK SC',sans-serif;fill:#4a525c;font-variant-numeric:tabular-nums}"
    ".i{font-family:'STIX Two Text','Cambria Math',Georgia,serif;font-style:italic;font-size:14px}"
    ".b{font-weight:600;fill:#16191d}.n{font-size:11px}.m{font-size:9.5px}"
    "text.a{fill:#0060a8}text.k{fill:#b3560b}text.c{fill:#007a5a}text.x{fill:#5b4a9a}"
)

Point = tuple[float, float]


def number(value: float) -> str:
    """Return a coordinate with one decimal, without a sign of zero."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a picture on white paper."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img"><title>{escape(title)}</title><style>{STYLE}</style>\n'
        f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(at: Point, words: str, kind: str = "", anchor: str = "start") -> str:
    """Return words at a point; `kind` is a list of classes of the style."""
    x, y = map(number, at)
    name = f' class="{kind}"' if kind else ""
    where = f' text-anchor="{anchor}"' if anchor != "start" else ""
    return f'<text x="{x}" y="{y}"{name}{where}>{escape(words)}</text>'


def line(start: Point, end: Point, colour: str = INK3, width: float = 1.0, dash: str = "") -> str:
    """Return a straight line."""
    (x1, y1), (x2, y2) = start, end
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}" '
        f'stroke="{colour}" stroke-width="{width}"{dashes}/>'
    )


def path(
    points: Iterable[Point],
    colour: str,
    width: float = 1.8,
    dash: str = "",
    *,
    opacity: float = 1.0,
    fill: str = "none",
    closed: bool = False,
) -> str:
    """Return a line through points."""
    steps = " L".join(f"{number(x)} {number(y)}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    faint = f' stroke-opacity="{opacity}"' if opacity < 1 else ""
    end = "Z" if closed else ""
    return (
        f'<path d="M{steps}{end}" fill="{fill}" stroke="{colour}" stroke-width="{width}" '
        f'stroke-linejoin="round"{dashes}{faint}/>'
    )


def circle(
    at: Point, radius: float, colour: str = LINE, fill: str = "none", width: float = 1
) -> str:
    """Return a circle."""
    x, y = map(number, at)
    return (
        f'<circle cx="{x}" cy="{y}" r="{number(radius)}" fill="{fill}" stroke="{colour}" '
        f'stroke-width="{width}"/>'
    )


def box(at: Point, size: Point, fill: str, opacity: float = 1.0) -> str:
    """Return a filled rectangle."""
    (x, y), (width, height) = at, size
    return (
        f'<rect x="{number(x)}" y="{number(y)}" width="{number(width)}" height="{number(height)}" '
        f'fill="{fill}" fill-opacity="{opacity:.2f}"/>'
    )


def arrow(start: Point, end: Point, colour: str, width: float = 2.2, dash: str = "") -> str:
    """Return an arrow with a filled head."""
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    head = [
        (end[0] - 9 * math.cos(angle + turn), end[1] - 9 * math.sin(angle + turn))
        for turn in (-0.4, 0.4)
    ]
    neck = (end[0] - 7 * math.cos(angle), end[1] - 7 * math.sin(angle))
    return line(start, neck, colour, width, dash) + path(
        [end, *head], colour, 0.5, fill=colour, closed=True
    )


def on_circle(centre: Point, radius: float, angle: float) -> Point:
    """Return a point of a circle; angles run against the clock, as in mathematics."""
    return centre[0] + radius * math.cos(angle), centre[1] - radius * math.sin(angle)


def arc(centre: Point, radius: float, start: float, stop: float) -> list[Point]:
    """Return points of an arc."""
    steps = max(2, round(abs(stop - start) * 20))
    return [on_circle(centre, radius, start + (stop - start) * i / steps) for i in range(steps + 1)]
