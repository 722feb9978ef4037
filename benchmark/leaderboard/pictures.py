"""Pictures for papers: each is a function of a DataFrame, and None if there is nothing to show."""

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullLocator, StrMethodFormatter

from kdbench.benchmark.leaderboard import drawing
from kdbench.benchmark.leaderboard.drawing import COLOURS, FAINT, INK, MARKERS, PAGE, PAPER, in_print, kind, short
from kdbench.benchmark.leaderboard.evidence import by_source, intervals

ROWS = 40  # methods in one picture
FAR = LEFT, RIGHT, BELOW = "◂", "▸", "↓"  # mark what is too far away to draw to scale
FILLS = ("bottom", "full", "none", "left", "top", "right")  # of the markers of methods with one source
QUALITY = {"Q": "Q: quality", "S": "S: separation", "I": "I: information", "E": "E: efficiency"}


@in_print
def accuracy_throughput(rows: pd.DataFrame) -> Figure | None:
    """``pair source method top1 speed``: one point for each method, and the front of those that none beats in both."""
    rows = rows.dropna(subset=["top1", "speed"])
    rows = rows[rows.groupby("pair")["method"].transform("nunique") > 1]
    if rows.empty:
        return None
    low = rows.groupby("pair")["top1"].transform(lambda top1: drawing.within(top1)[0])
    below = rows["top1"] < low  # drawn at the lower edge, with its value
    value = rows["top1"].map(f" {BELOW} {{:.1f}}".format)
    said = rows["method"].mask(below, rows["method"].map(lambda name: short(name, drawing.LONGEST - 7)) + value)
    rows = rows.assign(kind=rows["source"].map(kind), said=said, below=below, top1=rows["top1"].clip(lower=low))
    figure, panels = drawing.side_by_side(rows, "training speed (ce: 100%)", "top-1, %")
    for panel, points in panels:
        label = panel.get_ylabel()
        edge = front(points)
        panel.step(edge["speed"], edge["top1"], where="pre", color=FAINT, linewidth=0.8, zorder=1)
        sns.scatterplot(
            points, x="speed", y="top1", hue="kind", palette=COLOURS, style="kind", markers=MARKERS, s=36,
            edgecolor=PAPER, legend=False, ax=panel,
        )  # fmt: skip
        panel.set_ylabel(label)  # seaborn fills in an empty label
        panel.margins(x=0.22, y=0.16)
        panel.xaxis.set_major_locator(MaxNLocator(4))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:.0%}"))
    line = Line2D([], [], color=FAINT, linewidth=0.8, label="Pareto front")
    drawing.legend(figure, rows["kind"], "o", [line])
    figure.draw_without_rendering()
    for panel, points in panels:
        on_front = points.index.isin(front(points).index)
        order = ["below", "on_front", "top1", "method"]  # names of points below come first: they hold the values
        first = points.assign(on_front=on_front).sort_values(order, ascending=[False, False, False, True])
        named = list(zip(first["speed"], first["top1"], first["said"], strict=True))
        drawing.name_points(panel, named, panel.lines)
    return figure


def front(points: pd.DataFrame) -> pd.DataFrame:
    """The methods that no other beats in both accuracy and throughput, from slowest to fastest."""
    ranked = points.sort_values(["speed", "top1", "method"], ascending=[False, False, True], kind="stable")
    better = ~(ranked["top1"] <= ranked["top1"].cummax().shift())
    return ranked[better][::-1]


@in_print
def gains_by_source(rows: pd.DataFrame, unit: str) -> Figure | None:
    """``source unit gain``: for each source, its mean on every unit and the overall mean with its interval.

    The methods are the same on each unit.
    """
    return _ladder(by_source(rows), "source", unit)


@in_print
def gains(rows: pd.DataFrame, unit: str, halves: pd.Series | None = None) -> Figure | None:
    """``source method unit gain``: for each method, its gain on every unit and the mean with its interval.

    ``halves`` replaces half of the interval of each method.
    """
    return _ladder(rows, "method", unit, halves)


def _ladder(rows: pd.DataFrame, name: str, unit: str, halves: pd.Series | None = None) -> Figure | None:
    if rows.empty:
        return None
    means = intervals(rows, list(dict.fromkeys(["source", name]))).head(ROWS)
    if halves is not None:
        means["half"] = means[name].map(halves)
    figure, panel = drawing.ladder(means[name])
    panel.set_xlabel(f"gain over ce, points\n(line: 95% interval; bar: one {unit})")
    halves = means["half"].fillna(0)
    low, high = drawing.within(means["mean"], max(0.125, halves.median()))
    drawn = means["mean"].between(low, high)  # their intervals extend the axis, and means within it are drawn too
    low, high = (means["mean"] - halves)[drawn].min(), (means["mean"] + halves)[drawn].max()
    for rung, row in enumerate(means.to_dict("records")):
        colour, marker = COLOURS[kind(row["source"])], MARKERS[kind(row["source"])]
        if low <= row["mean"] <= high:
            own = rows.loc[rows[name] == row[name], "gain"]
            panel.plot(own, [rung] * len(own), "|", color=colour, markersize=7, alpha=0.6)
            half = 0 if pd.isna(row["half"]) else row["half"]
            panel.errorbar(row["mean"], rung, xerr=half, color=colour, marker=marker, elinewidth=1.4)
        else:
            side, arrow = (0, LEFT) if row["mean"] < low else (1, RIGHT)
            panel.annotate(arrow, (side, rung), xycoords=("axes fraction", "data"), color=colour, va="center")
        sure = f" ± {row['half']:.2f}" if pd.notna(row["half"]) else ""
        panel.annotate(
            f"{row['mean']:+.2f}{sure}".replace("-", "−"), (1, rung), (8, 0), ("axes fraction", "data"),
            "offset points", va="center",
        )  # fmt: skip
    if name != "source":
        drawing.legend(figure, means["source"].map(kind), "o")
    return figure


@in_print
def learning_curves(rows: pd.DataFrame) -> Figure | None:
    """``pair source method epoch mean std``: test accuracy after every epoch, and its spread over seeds."""
    if rows.empty:
        return None
    rows = rows.assign(kind=rows["source"].map(kind))
    figure, panels = drawing.side_by_side(rows, "epoch", "top-1, %")
    for panel, own in panels:
        for of, line in drawing.each(own, "kind").items():
            spread = line["std"].fillna(0)
            band = line["mean"] - spread, line["mean"] + spread
            panel.fill_between(line["epoch"], *band, color=COLOURS[of], alpha=0.12, linewidth=0)
            apart = max(1, len(line) // 6)
            start = list(COLOURS).index(of) * apart // len(COLOURS)
            panel.plot(
                line["epoch"], line["mean"], color=COLOURS[of], linewidth=0.9, marker=MARKERS[of], markersize=5,
                markeredgecolor=PAPER, markevery=(start, apart),
            )  # fmt: skip
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.set_ylim(own.loc[own["epoch"] > own["epoch"].max() / 4, "mean"].min() - 1)  # lines differ later
        panel.margins(x=0.02)
    names = {of: f"{of}: {short(line['method'].iloc[0], 28)}" for of, line in drawing.each(rows, "kind").items()}
    drawing.legend(figure, rows["kind"], "o", names=names)
    return figure


@in_print
def width_study(rows: pd.DataFrame) -> Figure | None:
    """``study family width source method mean half``: gains over ce by the student's width, with their intervals."""
    if rows.empty:
        return None
    studies = list(drawing.each(rows, "study").items())[: drawing.PANELS]
    figure = drawing.blank(PAGE, 3.0 * len(studies))
    for (study, own), panel in zip(studies, figure.subplots(len(studies), squeeze=False).flat, strict=True):
        methods, seen = drawing.each(own, "method"), list[str]()
        low = drawing.within(own["mean"])[0]
        for place, (name, line) in enumerate(methods.items()):
            seen.append(of := kind(line["source"].iloc[0]))
            ends = " to ".join(f"{end:.1f}".replace("-", "−") for end in (line["mean"].min(), line["mean"].max()))
            beyond = f" {BELOW} {ends}" if line["mean"].max() < low else ""
            apart = 2 ** (0.04 * (place - (len(methods) - 1) / 2))  # intervals must not hide each other
            panel.errorbar(
                line["width"] * apart, line["mean"], line["half"].fillna(0), color=COLOURS[of], elinewidth=0.8,
                marker=MARKERS[of], fillstyle=FILLS[seen.count(of) % len(FILLS)], markerfacecoloralt=PAPER,
                linestyle=drawing.dashes(of), label=short(name, 48) + beyond,
            )  # fmt: skip
        panel.axhline(0, color=FAINT, linewidth=0.6, zorder=0)
        drawn, half = own["mean"][own["mean"] >= low], own["half"].fillna(0)
        panel.set_ylim((drawn - half).min() - 0.1, (drawn + half).max() + 0.1)
        panel.set_xscale("log", base=2)
        widths = sorted(own["width"].unique())
        panel.set_xticks(widths, [f"{width:g}" for width in widths])
        panel.xaxis.set_minor_locator(NullLocator())
        panel.set(title=study, xlabel=f"width, × {own['family'].iloc[0]}", ylabel="gain over ce, points")
        panel.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=3)
    return figure


@in_print
def knowledge_quality(rows: pd.DataFrame) -> Figure | None:
    """``teacher layer S I E Q chosen``: the quality of every layer of the teachers; points mark the highest Q."""
    if rows.empty:
        return None
    looks = [(INK, "logits"), *((COLOURS[of], of) for of in COLOURS)]
    figure = drawing.blank(PAGE, 2.5)
    for (letter, meaning), panel in zip(QUALITY.items(), figure.subplots(1, len(QUALITY)), strict=True):
        for (teacher, own), (colour, line) in zip(drawing.each(rows, "teacher").items(), looks, strict=False):
            panel.plot(own["layer"], own[letter], color=colour, linestyle=drawing.dashes(line), label=short(teacher))
            if letter == "Q":
                best = own[own["chosen"]]
                panel.plot(best["layer"], best["Q"], "o", color=colour, markeredgecolor=PAPER)
        panel.set(xlabel="layer", title=meaning)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        panel.margins(0.07, 0.1)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower left", ncols=3, handlelength=3)
    return figure


@in_print
def accuracy_by_task(rows: pd.DataFrame) -> Figure | None:
    """``pair source method task mean``: accuracy over all classes seen so far, after every task."""
    if rows.empty:
        return None
    rows = rows.assign(kind=rows["source"].map(kind))
    figure, panels = drawing.side_by_side(rows, "task", "top-1 so far, %")
    for panel, own in panels:
        for of, line in drawing.each(own, "kind").items():
            panel.plot(
                line["task"], line["mean"], color=COLOURS[of], linestyle=drawing.dashes(of), marker=MARKERS[of],
                markeredgecolor=PAPER,
            )  # fmt: skip
        panel.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    names = {of: f"{of}: {short(line['method'].iloc[0], 28)}" for of, line in drawing.each(rows, "kind").items()}
    drawing.legend(figure, rows["kind"], "-o", names=names)
    return figure
