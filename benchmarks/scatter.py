"""Plot predicted and actual φ as an SVG: a panel for each share, a colour for each query."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from engine.evaluation.validation import Points, Validation, read_validation
from engine.scores.attribution import Attribution

PANEL, EDGE, GAP = 220, 34, 14
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee",
           "#aa3377", "#bbbbbb", "#332288", "#ddaa33", "#004488")  # fmt: skip


def write_scatter(opened: Attribution, file: Path) -> None:
    """Draw all subsets and queries of an attribution, each query scaled by its spread."""
    validation = read_validation(opened.path)
    if validation is None:
        raise SystemExit(f"{opened.path} is not validated")
    kinds = validation.kinds
    width = len(kinds) * (PANEL + GAP) + 2 * EDGE
    body = "".join(_panel(validation.by_kind[kind], place) for place, kind in enumerate(kinds))
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{PANEL + 2 * EDGE + 20}" '
        f'font-family="sans-serif" font-size="12">'
        f'<rect width="100%" height="100%" fill="white"/>{body}</svg>\n'
    )


def _panel(validation: Validation, place: int) -> str:
    left, top = EDGE + place * (PANEL + GAP), EDGE
    title = f"{validation.kinds[0]}, {validation.subsets} subsets, LDS {validation.lds:.3f}"
    shapes = [
        f'<text x="{left}" y="{top - 10}">{title}</text>',
        f'<rect x="{left}" y="{top}" width="{PANEL}" height="{PANEL}" fill="none" stroke="#999"/>',
        f'<line x1="{left}" y1="{top + PANEL}" x2="{left + PANEL}" y2="{top}" stroke="#bbb"/>',
        f'<text x="{left}" y="{top + PANEL + 18}" fill="#555">predicted → (each query by its '
        "spread)</text>",
    ]
    if place == 0:
        turn = f"rotate(-90 {left - 10} {top + PANEL})"
        text = f'<text x="{left - 10}" y="{top + PANEL}" fill="#555" transform="{turn}">'
        shapes.append(f"{text}actual →</text>")
    for points in validation.points:
        shapes += _dots(points, left, top)
    return "".join(shapes)


def _dots(points: Points, left: int, top: int) -> Iterator[str]:
    # Both axes span three standard deviations of the actual values on either side of their mean.
    middle, reach = points.actual.mean(), 3 * max(float(points.actual.std()), 1e-300)
    xs, ys = (
        np.clip((values - middle) / (2 * reach) + 0.5, 0, 1) * PANEL
        for values in (points.predicted, points.actual)
    )
    colour = COLOURS[points.query % len(COLOURS)]
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        where = f'cx="{left + x:.1f}" cy="{top + PANEL - y:.1f}"'
        yield f'<circle {where} r="2.5" fill="{colour}" fill-opacity="0.7"/>'
