"""Curves as inline SVG."""

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 34
Points = Sequence[tuple[int, float]]


def curve_chart(train: Points, held_out: Points, what: str = "Loss") -> Markup:
    """Loss or reward in training as a line, held-out loss as a line with points; hovering over a point tells
    its value."""
    points = [*train, *held_out]
    if not points:
        return Markup("")
    last = max(step for step, _ in points) or 1
    marks = ticks(min(v for _, v in points), max(v for _, v in points))
    low, high = marks[0], marks[-1]

    def x(step: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * step / last, 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low), 1)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{what} over the training steps">',
        *(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(m)}" y2="{y(m)}"/>'
            f'<text x="{LEFT - 8}" y="{y(m) + 4}" text-anchor="end">{m:g}</text>'
            for m in marks
        ),
        *(
            f'<text x="{x(m)}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{m:,.0f}</text>'
            for m in ticks(0, last)
            if m <= last
        ),
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">step</text>',
        _line("train", [(x(s), y(v)) for s, v in train]),
        _line("held-out", [(x(s), y(v)) for s, v in held_out]),
        *(
            f'<circle class="held-out" cx="{x(s)}" cy="{y(v)}" r="4">'
            f"<title>step {s:,}: held-out loss {v:.4g}</title></circle>"
            for s, v in held_out
        ),
        "</svg>",
    ]
    return Markup("".join(parts))  # noqa: S704 (made of numbers only)


def ticks(low: float, high: float) -> list[float]:
    """Round values that enclose a range, about five of them, at least two."""
    rough = (high - low) / 4 or abs(high) / 4 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _line(name: str, points: list[tuple[float, float]]) -> str:
    if len(points) < 2:
        return ""
    return f'<polyline class="{name}" points="{" ".join(f"{x},{y}" for x, y in points)}"/>'
