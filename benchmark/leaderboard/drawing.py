"""The style of all pictures: sizes for print, and one colour, marker and line for each source of knowledge.

Sources can be told apart without colour. The same picture is always the same bytes.
"""

import io
import re
from collections.abc import Iterable, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

COLUMN, PAGE = 3.5, 7.2  # inches: the width of one column of a paper, and of both
PANELS = 6  # in one picture
NAMES = 20  # of points; more would only overlap
LONGEST = 28  # characters of such a name

BESIDE = [(6, 0, "left"), (-6, 0, "right"), (5, 7, "left"), (5, -7, "left"), (-5, 7, "right"), (-5, -7, "right")]
AFAR = [(across, up, side) for up in (-16, 16, -26, 26) for across, side in ((12, "left"), (-12, "right"))]

INK, FAINT, RULE, PAPER = "#1f1f1f", "#767676", "#d9d9d9", "#ffffff"
PLAIN = {"ink": INK, "faint": FAINT, "rule": RULE, "paper": PAPER}
# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = {
    "labels": "#6b6b6b",
    "logits": "#0072b2",
    "features": "#d55e00",
    "gradients": "#009e73",
    "relations": "#cc79a7",
    "combined": "#4b3f8f",
    "other": "#8a8a8b",
}
MARKERS = dict(zip(COLOURS, ["o", "s", "^", "D", "v", "P", "X"], strict=True))
DASHES = {
    "labels": (1, 1.2),
    "logits": (1, 0),
    "features": (5, 1.5),
    "gradients": (5, 1.5, 1, 1.5),
    "relations": (2.5, 1),
    "combined": (7, 1.2, 1, 1.2, 1, 1.2),
    "other": (1, 2.5),
}
LOOK = sns.axes_style("ticks") | {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],  # the first ships with matplotlib: always the same
    **dict.fromkeys(["font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize"], 8),
    **dict.fromkeys(["xtick.labelsize", "ytick.labelsize"], 8),
    **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"], INK),
    **dict.fromkeys(["axes.edgecolor", "xtick.color", "ytick.color"], FAINT),
    **dict.fromkeys(["axes.linewidth", "xtick.major.width", "ytick.major.width"], 0.6),
    **dict.fromkeys(["xtick.major.size", "ytick.major.size"], 3),
    **dict.fromkeys(["axes.spines.top", "axes.spines.right", "legend.frameon"], False),
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 6,
    "lines.markeredgewidth": 0.6,
    "text.parse_math": False,  # show dollar signs in names as they are
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kdbench",  # stable ids
}

in_print = mpl.rc_context(LOOK)  # decorates every function that draws


@in_print
def saved(figure: Figure, form: str) -> bytes:
    """The figure as ``svg``, ``png`` or ``pdf``."""
    file = io.BytesIO()
    nothing = {  # metadata about the program and the time
        "svg": ["Date", "Creator", "Format", "Type"],
        "png": ["Software"],
        "pdf": ["CreationDate", "Creator", "Producer"],
    }[form]
    figure.savefig(file, format=form, metadata=dict.fromkeys(nothing), dpi=300, facecolor=PAPER)
    if form != "svg":
        return file.getvalue()
    # Paths need no more than hundredths of a point.
    return re.sub(rb' d="[^"]+', lambda d: re.sub(rb"(\.\d\d)\d+", rb"\1", d[0]), file.getvalue())


def kind(source: str) -> str:
    """The kind that sets the look of a source; combinations share one."""
    return "combined" if "+" in source else source if source in COLOURS else "other"


def dashes(of: str) -> tuple[float, tuple[float, ...]]:
    return 0, DASHES[of]


def short(name: str, most: int = 40) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def within(values: pd.Series, alike: float = 0.125) -> tuple[float, float]:
    """The range of most values, so that one far outside does not squeeze all others together.

    Values within ``alike`` of each other count as close.
    """
    middle = values.median()
    room = 8 * max((values - middle).abs().median(), alike)
    return max(values.min(), middle - room), min(values.max(), middle + room)


def each(rows: pd.DataFrame, name: str) -> dict[str, pd.DataFrame]:
    """The rows of each value, in order of first appearance."""
    return {str(value): own for value, own in rows.groupby(name, sort=False)}


def blank(width: float, height: float) -> Figure:
    """An empty figure with a canvas, which is reused for every measurement of a text's width."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def side_by_side(rows: pd.DataFrame, x: str, y: str) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each of the first pairs, with its rows. A single panel is as wide as a column."""
    pairs = list(each(rows, "pair").items())[:PANELS]
    across = min(len(pairs), 3)
    down = -(-len(pairs) // across)
    figure = blank(COLUMN if across == 1 else PAGE, 2.6 * down)
    panels = []
    for number, (pair, own) in enumerate(pairs):
        panel = figure.add_subplot(down, across, number + 1)
        panel.set(title=short(pair), xlabel=x, ylabel="" if number % across else y)
        panels.append((panel, own))
    return figure, panels


def ladder(rungs: Iterable[str]) -> tuple[Figure, Axes]:
    """One panel with a row for each name, the first on top. Long names take the width of a page."""
    rungs = list(rungs)
    width = COLUMN if max(map(len, rungs)) < 20 else PAGE
    figure = blank(width, 1.1 + 0.2 * len(rungs))
    panel = figure.subplots()
    panel.set_ylim(len(rungs) - 0.4, -0.6)
    panel.set_yticks(range(len(rungs)), [short(name) for name in rungs])
    panel.axvline(0, color=FAINT, linewidth=0.6, zorder=0)
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.xaxis.set_major_locator(MaxNLocator(5))
    return figure, panel


def legend(
    figure: Figure,
    kinds: "pd.Series[str]",
    form: str,
    others: Sequence[Line2D] = (),
    names: dict[str, str] | None = None,
) -> None:
    """Add a legend at the bottom: the kinds that occur, as points (``"o"``), lines (``"-"``) or both (``"-o"``)."""
    handles = [
        Line2D(
            [], [], color=COLOURS[one], marker=MARKERS[one] if "o" in form else "", markersize=6,
            markeredgecolor=PAPER, linestyle=dashes(one) if "-" in form else "none", label=(names or {}).get(one, one),
        )
        for one in COLOURS
        if one in set(kinds)
    ]  # fmt: skip
    handles += others
    longest = max(len(str(handle.get_label())) for handle in handles)
    down = -(-len(handles) * (longest + 6) // int(figure.get_figwidth() * 15))
    across = -(-len(handles) // down)
    figure.legend(handles=handles, loc="outside lower left", ncols=across, handlelength=2.4 if "-" in form else 1)


def name_points(panel: Axes, places: Sequence[tuple[float, float, str]], lines: Iterable[Line2D] = ()) -> None:
    """Write a name next to each point, or farther away at the end of a stroke, without covering others or lines.

    Earlier points choose first. Points without room get no name. The figure must have been laid out.
    """
    corners = [panel.transData.transform((x, y)) for x, y, _ in places]
    points = [Bbox.from_extents(x - 6, y - 6, x + 6, y + 6) for x, y in corners]
    names: list[Bbox] = []
    drawn = [line.get_transform().transform_path(line.get_path()) for line in lines]
    for place, (x, y, name) in enumerate(places[:NAMES]):
        others = points[:place] + points[place + 1 :] + names
        for across, up, side in BESIDE + AFAR:
            text = panel.annotate(
                short(name, LONGEST), (x, y), (across, up), textcoords="offset points", ha=side, va="center", color=INK,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )  # fmt: skip
            text.set_in_layout(False)
            box, far = text.get_window_extent(), (across, up, side) in AFAR
            stroke = Path([corners[place], corners[place] + np.array([across, up]) * panel.figure.dpi / 72])
            inside = panel.bbox.x0 <= box.x0 and box.x1 <= panel.bbox.x1
            inside &= panel.bbox.y0 <= box.y0 and box.y1 <= panel.bbox.y1
            covers = any(box.overlaps(other) for other in [points[place], *others])
            covers |= any(path.intersects_bbox(box, filled=False) for path in drawn)
            covers |= far and any(stroke.intersects_bbox(other.padded(-3)) for other in others)
            if inside and not covers:
                names.append(box)
                if far:
                    style = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
                    panel.annotate("", (x, y), (across, up), textcoords="offset points", arrowprops=style, zorder=1)
                break
            text.remove()
