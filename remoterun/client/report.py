"""A report of runs: one HTML file without a script, with what they were, their parameters, their values and curves."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.measured import Series, direction, rank
from remoterun.client.metrics import parameters
from remoterun.errors import HostError, NotFound, UsageError
from remoterun.model import Run, listed
from remoterun.sizes import duration, iso

if TYPE_CHECKING:
    from remoterun.client.runs import Runs

MOST_RUNS, MOST_CHARTS, MOST_POINTS = 20, 24, 600
"""MOST_POINTS: of a curve that are drawn."""
_WIDTH, _HEIGHT = 560, 240
_LEFT, _BOTTOM, _TOP = 64, 28, 10
"""Pixels around a chart."""
_COLOURS = 8


@dataclass(frozen=True)
class _Told:
    """A run, the spec that its machine has of it, and its curves: (step, value) of each series."""

    run: Run
    spec: dict[str, Any]
    curves: dict[str, list[tuple[float, float]]]
    missing: str = ""
    """Why there are no curves."""

    @property
    def series(self) -> dict[str, Series]:
        return {} if self.run.progress is None else {each.name: each for each in self.run.progress.series}


def report(runs: Runs, numbers: Sequence[int | str], now: float | None = None) -> bytes:
    """See `Runs.report`."""
    if len(numbers) > MOST_RUNS:
        raise UsageError(f"a report has up to {MOST_RUNS} runs, and not {len(numbers)}", hint="remoterun report 3 4")
    told = [_told(runs, number) for number in numbers]
    title = f"Run{'s' if len(told) > 1 else ''} {listed(str(each.run.number) for each in told)}"
    body = "\n".join(_body(told, title, time.time() if now is None else now))
    page = Path(__file__).with_name("report.html").read_text("utf-8").replace("$TITLE", title)
    return page.replace("$BODY", body).encode(errors="replace")


def _told(runs: Runs, number: int | str) -> _Told:
    run, details = runs.info(number)
    spec = details["spec"] or {}
    if run.placed is None:
        return _Told(run, spec, {})
    curves = runs.metrics(number)
    try:
        curves.update()
    except (HostError, NotFound) as error:  # what was best is known here all the same
        return _Told(run, spec, {}, error.message)
    names = [each.name for each in curves.progress.series] if curves.progress is not None else []
    return _Told(curves.run, spec, {name: [(step, value) for step, _, value in curves.series(name)] for name in names})


def _body(told: Sequence[_Told], title: str, now: float) -> Iterator[str]:
    yield f"<h1>{title}</h1>\n<p>{_moment(now)}</p>"
    facts = [_facts(each, now) for each in told]
    yield _table(told, [(name, [each[name] for each in facts]) for name in facts[0]], lambda _: "")
    params = [parameters(each.run.command, each.spec.get("params"), each.run.progress) for each in told]
    names = list(dict.fromkeys(name for each in params for name in each))
    if names:
        yield "<h2>Parameters</h2>"
        yield _table(
            told,
            [(name, [each.get(name, "–") for each in params]) for name in names],
            lambda values: "differs" if len(set(values)) > 1 else "",
        )
    series = sorted({name for each in told for name in each.series}, key=rank)[:MOST_CHARTS]
    if series:
        yield "<h2>Values</h2>"
        yield _table(told, [(name, [_value(each.series.get(name)) for each in told]) for name in series], lambda _: "")
        yield "<h2>Curves</h2><section>"
        for name in series:
            yield chart(name, [(each.run.number, each.curves.get(name, [])) for each in told])
        yield "</section>"


def _moment(moment: float) -> str:
    return iso(moment)[:16].replace("T", " ") + " UTC"


def _facts(told: _Told, now: float) -> dict[str, str]:
    run, git = told.run, told.spec.get("git")
    cost, end = run.cost(now), run.ended if run.final else now
    changed = ", changed" if git and git["dirty"] else ""
    return {
        "State": run.state.value + (f": {run.words}" if run.words and run.exit_status else ""),
        "Description": run.description or "",
        "Command": run.command,
        "Machine": run.where,
        "Commit": f"{git['commit'][:12]} ({git['branch'] or 'no branch'}{changed})" if git else "",
        "Started": _moment(run.started) if run.started is not None else "",
        "Duration": duration(end - run.started) if run.started is not None and end is not None else "",
        "Cost": f"${cost:.2f}" if cost is not None else "",
        "Labels": ", ".join(run.labels),
        "Alerts": "\n".join(run.progress.alerts) if run.progress is not None else "",
        "Curves": told.missing,
    }


def _table(
    told: Sequence[_Told], rows: Sequence[tuple[str, Sequence[str]]], mark: Callable[[Sequence[str]], str]
) -> str:
    """A column for each run, and a row for each name that has a value."""
    numbers = enumerate(each.run.number for each in told)
    heads = [f'<th class="c{place % _COLOURS}"><i></i>run {number}</th>' for place, number in numbers]
    lines = [f"<tr><td></td>{''.join(heads)}</tr>"]
    for name, values in rows:
        if any(values):
            class_ = mark(values)
            shown = html.escape(name) + (" ≠" if class_ else "")
            cells = "".join(f"<td>{html.escape(value)}</td>" for value in values)
            lines.append(f'<tr class="{class_}"><th>{shown}</th>{cells}</tr>')
    return "<div><table>\n{}\n</table></div>".format("\n".join(lines))


def _value(series: Series | None) -> str:
    """The best one, where the name says which is better; else the last one."""
    if series is None:
        return "–"
    word, value, step = "best", series.best, series.best_step
    if value is None or not direction(series.name):
        word, value, step = "last", series.last, series.step
    return "–" if value is None else f"{value:.5g} ({word}{'' if step is None else f', step {step:,.0f}'})"


def chart(name: str, curves: Sequence[tuple[int, Sequence[tuple[float, float]]]]) -> str:
    """A picture of (run, its points), in SVG; of each up to `MOST_POINTS` points, among them the peaks."""
    thin = [(number, thinned([point for point in points if _drawn(point)])) for number, points in curves]
    points = [point for _, found in thin for point in found]
    if not points:
        return ""
    xs, ys = _range([x for x, _ in points]), _range([y for _, y in points])

    def across(x: float) -> float:
        return _LEFT + (x - xs[0]) / (xs[1] - xs[0]) * (_WIDTH - _LEFT - 8)

    def down(y: float) -> float:
        return _TOP + (ys[1] - y) / (ys[1] - ys[0]) * (_HEIGHT - _TOP - _BOTTOM)

    lines = []
    for y in _ticks(*ys):
        lines.append(f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{down(y):.1f}" y2="{down(y):.1f}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{down(y) + 4:.1f}" text-anchor="end">{y:.4g}</text>')
    for x in _ticks(*xs):
        lines.append(f'<text x="{across(x):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{x:,.6g}</text>')
    for place, (number, found) in enumerate(thin):
        drawn = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in found)
        lines.append(f'<polyline class="c{place % _COLOURS}" points="{drawn}"><title>run {number}</title></polyline>')
    label = html.escape(name)
    picture = "\n".join(lines)
    return (
        f'<figure><figcaption>{label}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{label} by step">\n{picture}\n</svg></figure>'
    )


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """The least and the largest of each stretch, in their order."""
    if len(points) <= most:
        return list(points)
    found = []
    stretches = most // 2
    for place in range(stretches):
        part = range(len(points) * place // stretches, len(points) * (place + 1) // stretches)
        ends = {min(part, key=lambda each: points[each][1]), max(part, key=lambda each: points[each][1])}
        found += [points[each] for each in sorted(ends)]
    return found


def _drawn(point: tuple[float, float]) -> bool:
    return all(math.isfinite(each) and abs(each) < 1e100 for each in point)


def _range(values: Sequence[float]) -> tuple[float, float]:
    least, most = min(values), max(values)
    large = max(abs(least), abs(most))
    if most - least > max(large * 1e-12, 1e-200):
        return least, most
    return least - (large / 2 or 1), most + (large / 2 or 1)


def _ticks(least: float, most: float) -> list[float]:
    """Two to six round numbers between the two."""
    size = 10.0 ** math.floor(math.log10((most - least) / 2))
    step = next((size * by for by in (1, 2, 5) if (most - least) / (size * by) <= 5), size * 10)
    first = math.ceil(least / step)
    return [step * (first + place) for place in range(6) if step * (first + place) <= most]
