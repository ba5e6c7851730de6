"""Metrics of runs: a table, curves, points as CSV, and what is to come."""

from __future__ import annotations

import csv
import io
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from remoterun.agent.shared.measured import Series, number, rank
from remoterun.cli.render import Column, line, out, run_views, table
from remoterun.cli.render.run_views import sparkline
from remoterun.cli.render.terminal import dollars, duration, name, paint, terminal_width
from remoterun.client.data.metrics import Curves, Points, compared, outlook
from remoterun.model import Run

Wanted = Callable[[str], bool]
"""Whether a series of this name is shown."""
HIGH, WIDEST = 8, 100
"""Rows and columns of a curve."""
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""The bits of a Braille character, by row and column."""


def series(runs: Sequence[Run], wanted: Wanted) -> None:
    """A row for each series; of several runs the last and the best value of each, side by side."""
    known = [{each.name: each for each in run.progress.series} if run.progress else {} for run in runs]
    names = sorted({each for one in known for each in one if wanted(each)}, key=rank)
    if not names:
        line("No such metric is reported" if any(known) else "No metric is reported")
    if len(runs) > 1:
        heads = [Column("SERIES", least=12), *(Column(f"RUN {run.number}", right=True) for run in runs)]
        table(heads, [[name(each), *(_brief(one.get(each)) for one in known)] for each in names])
        return
    numbers = ("LAST", "BEST", "AT STEP", "FIRST", "POINTS")
    heads = [Column("SERIES", least=12), *(Column(head, right=True) for head in numbers), Column("", drop=1)]
    rows = []
    for each in map(known[0].__getitem__, names):
        values = (each.last, each.best, each.best_step, each.first, each.points)
        rows.append([name(each.name), *map(_number, values), sparkline(each.spark, 24)])
    table(heads, rows)


def ranked(metric: str, found: Sequence[tuple[Run, float | None]], verbose: bool) -> None:
    """The table of runs as `best_first` returns them, with these values and their parameters."""
    known = [run for run, _ in found]
    values = {metric: ["" if value is None else _number(value) for _, value in found]} if metric else {}
    run_views.runs_table(known, verbose, columns={**values, **compared(known)})
    if metric:
        line(f"The best {name(metric)} stands first")


def _brief(each: Series | None) -> str:
    if each is None or each.best is None:
        return "" if each is None else _number(each.last)
    return f"{_number(each.last)} (best {_number(each.best)} at {_number(each.best_step)})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value == int(value) else f"{value:.4g}"


def outlooks(runs: Sequence[Run], specs: Sequence[Mapping[str, Any] | None]) -> None:
    """A line for each run: how far it is, what is to come, and what is wrong."""
    for run, spec in zip(runs, specs, strict=True):
        progress, ahead = run.progress, outlook(run, time.time(), spec)
        if progress is None:
            continue
        words = [
            unread(run.number, progress.unread) if progress.unread else "",
            ""
            if progress.step is None
            else f"step {_number(progress.step)}" + (f" of {_number(ahead.total)}" if ahead.total else ""),
            f"{progress.rate:.3g} steps/s" if progress.rate and not run.final else "",
            f"{duration(ahead.left)} left" if ahead.left is not None else "",
            f"{dollars(ahead.cost_left)} to the end" if ahead.cost_left is not None else "",
            f"its time will be up at step {ahead.cut_at:,.0f}" if ahead.cut_at is not None else "",
            f"{progress.left_out:,} points are not stored" if progress.left_out else "",
        ]
        if known := [word for word in [*words, *progress.alerts] if word]:
            out(f"run {run.number}: " + " · ".join(known))


def unread(number: int, count: int) -> str:
    """The words for lines with so many numbers, of which nothing was understood."""
    return f"{count} numbers a line, in which no metric was found: remoterun metrics {number} --again --metric REGEX"


def points(curves: Sequence[Curves], wanted: Wanted) -> None:
    """All points, as CSV."""
    out("run,series,step,time,value")
    for each in curves:
        for title, all_known in each.all().items():
            known = [("" if math.isnan(step) else step, *rest) for step, *rest in all_known]
            if wanted(title):
                written = io.StringIO()
                csv.writer(written, lineterminator="\n").writerows((each.run.number, title, *point) for point in known)
                for row in written.getvalue().splitlines():
                    out(row)


def plots(curves: Sequence[Curves], wanted: Wanted) -> None:
    """A curve for each series; those of several runs below each other."""
    known = [(each.run.number, each.all()) for each in curves]
    for title in sorted({title for _, one in known for title in one if wanted(title)}, key=rank):
        for run, one in known:
            if rows := _drawn(one.get(title, [])):
                out(paint(f"{name(title)}, run {run}", "1"))
                for row in rows:
                    out(row)


def _drawn(points: Points) -> list[str]:
    """A curve in Braille, beside its largest and its least value; by seconds where no step is known."""
    finite = [(step, value) for step, _, value in points if None not in (number(step), number(value))]
    axis = "step" if finite else "seconds"
    timed = [
        (time - points[0][1], value) for step, time, value in points if math.isnan(step) and number(value) is not None
    ]
    finite = finite or timed
    if not finite:
        return []
    (left, right), (least, most) = ((min(each), max(each)) for each in zip(*finite, strict=True))
    wide = max(min((terminal_width(sys.stdout) or WIDEST) - 12, WIDEST), 20)
    cells = [[0x2800] * wide for _ in range(HIGH)]
    for step, value in finite:
        x = round((step - left) / (right - left or 1) * (2 * wide - 1))
        y = round((most - value) / (most - least or 1) * (4 * HIGH - 1))
        cells[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
    labels = [f"{most:.4g}", *[""] * (HIGH - 2), f"{least:.4g}"]
    rows = [f"{label:>10} {''.join(map(chr, row))}" for label, row in zip(labels, cells, strict=True)]
    return [*rows, f"{axis:>10} {left:<{wide - 10}g}{right:>10g}"]
