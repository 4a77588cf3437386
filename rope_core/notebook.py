"""A resolved rope as HTML for notebooks: the sentences, a picture and a table, without imports."""

import html
import math

from rope_core.config import RopeConfig
from rope_core.hf.lengths import Lengths
from rope_core.hf.resolve import Resolved
from rope_core.scaling import exact_frequencies, pair_bands
from rope_core.sentences import number, summary

WIDTH, HEIGHT, LEFT, TOP = 640, 200, 48, 12
"""Size of the picture, and its margins, in pixels."""

COLOURS = {None: "#6b737d", "kept": "#6b737d", "blended": "#5b4a9a", "divided": "#0060a8"}
"""Colours of pairs, by what the variant does to them."""

SLOWEST = 1e-30
"""Frequency of a pair that is not drawn, in radians per position."""

SHOWN = ("rope_type", "theta", "head_dim", "rotary_dim", "layout", "axes", "attention_scaling")
"""Parameters in the table."""


def resolved_html(resolved: Resolved) -> str:
    """Return the sentences about a resolved rope, its wavelengths as a picture, and a table."""
    parts = [f"<p>{html.escape(summary(resolved))}</p>"]
    if resolved.rope is not None:
        parts += [_picture(resolved.rope, resolved.lengths), _table(resolved, resolved.rope)]
    parts += [f"<p>{html.escape(warning)}</p>" for warning in resolved.warnings]
    return f"<div>{''.join(parts)}</div>"


def _table(resolved: Resolved, rope: RopeConfig) -> str:
    values = {name: getattr(rope, name) for name in SHOWN}
    values |= {name: value for name, value in rope.parameters if not isinstance(value, tuple)}
    names = {"theta": "rope_theta", "attention_scaling": "attention_factor"}
    rows = []
    for name, value in values.items():
        if value is None:
            continue
        known = names.get(name, name)
        source, why = resolved.provenance.get(known, ""), resolved.why.get(known, "")
        cells = (name, _text(value), source, why)
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    head = "".join(
        f"<th>{name}</th>" for name in ("parameter", "value", "source", "key or formula")
    )
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _text(value: object) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return number(float(value), 7) if is_number else str(value)  # type: ignore[arg-type]


def _picture(rope: RopeConfig, lengths: Lengths) -> str:
    """Return an SVG: how many positions each pair takes for one turn, logarithmic."""
    frequencies = exact_frequencies(rope).abs().tolist()
    turns = [2 * math.pi / w if w > SLOWEST else None for w in frequencies]
    known = [math.log10(turn) for turn in turns if turn is not None]
    if not known:
        return ""
    marks = {
        name: length
        for name, length in (("trained", lengths.trained), ("allowed", lengths.allowed))
        if length is not None
    }
    levels = known + [math.log10(length) for length in marks.values()]
    low, high = math.floor(min(levels)), max(math.ceil(max(levels)), math.floor(min(levels)) + 1)

    def y(level: float) -> float:
        return round(TOP + (HEIGHT - 2 * TOP) * (high - level) / (high - low), 1)

    right = WIDTH - LEFT
    step = (right - LEFT) / max(len(turns) - 1, 1)
    items = [_line(LEFT, right, y(decade), "#dfe1e0") for decade in range(low, high + 1)]
    items += [_label(4, y(decade), f"1e{decade}") for decade in range(low, high + 1)]
    for name, length in marks.items():
        level = y(math.log10(length))
        items += [_line(LEFT, right, level, "#16191d"), _label(right + 2, level, name)]
    for pair, (turn, band) in enumerate(zip(turns, pair_bands(rope), strict=True)):
        if turn is not None:
            x, text = round(LEFT + pair * step, 1), f"pair {pair}: {number(turn)} positions a turn"
            title = f"<title>{text}</title>"
            circle = f'<circle cx="{x}" cy="{y(math.log10(turn))}" r="2.5" fill="{COLOURS[band]}">'
            items.append(f"{circle}{title}</circle>")
    name = "Positions that each pair takes for one turn"
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    space = 'xmlns="http://www.w3.org/2000/svg" role="img"'
    return f'<svg {space} {size} aria-label="{name}"><title>{name}</title>{"".join(items)}</svg>'


def _line(left: float, right: float, y: float, colour: str) -> str:
    return f'<line x1="{left}" x2="{right}" y1="{y}" y2="{y}" stroke="{colour}"/>'


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x}" y="{y + 4}" font-size="11" fill="#6b737d">{text}</text>'
