"""A report of runs: one HTML file with what they were, their parameters, values and curves; and with their pictures,
sounds, texts and videos, on one slider over the steps. It has a script only for that."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import posixpath
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun.agent.shared.measured import Series, direction, rank
from remoterun.agent.shared.paths import SafeFolder, show
from remoterun.agent.shared.tree import Manifest
from remoterun.client.data.metrics import parameters
from remoterun.client.exports.diary import MOST_BYTES, Diary, bytes_taken, diaries, fitting, steps_of
from remoterun.errors import HostError, NotFound, UsageError
from remoterun.model import Run, listed
from remoterun.sizes import clock, dollars, duration

if TYPE_CHECKING:
    from remoterun.client.runs.runs import Runs
    from remoterun.transfer import Choice

MOST_RUNS, MOST_CHARTS, MOST_POINTS = 20, 24, 600
"""Of a report; of a curve that is drawn."""
_COLOURS = 8
_KINDS = {"image": "image", "sound": "audio", "video": "video", "text": "text"}
_TYPES = {".jpg": "jpeg", ".svg": "svg+xml", ".mp3": "mpeg", ".m4a": "mp4"}
"""The first part of a file's media type by its kind; the second one, where that is not its extension."""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 560, 240, 64, 552, 10, 212
"""Of a chart, in pixels; the edges of what is drawn in it."""
Curve = list[tuple[float, float]]
"""(step, value) of each point."""


@dataclass
class _Column:
    """A run as the tables show it: texts by name, and its curves."""

    number: int
    facts: dict[str, str]
    params: Mapping[str, str]
    is_answered: bool
    """Whether a machine has it, and answered."""
    values: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Curve] = field(default_factory=dict)
    names: Sequence[str] = ()
    """Of all its metrics."""


@dataclass(frozen=True)
class Shown:
    """What a report has of the diaries of its runs: `groups` have the steps that are in it, of the `steps_found`."""

    groups: Sequence[Diary]
    steps_found: int
    size: int = 0
    """Bytes of the whole report."""

    @property
    def steps(self) -> int:
        return len(steps_of(self.groups))


def report(
    runs: Runs,
    numbers: Sequence[int | str],
    write: Callable[[bytes], object],
    list_files: Callable[[int], Manifest],
    fetch: Callable[[int, Path, Choice], object],
    name: str,
    fps: float,
) -> Shown:
    """See `Files.report`. `list_files`: those of a run; `fetch` copies into a folder those that are chosen."""
    if len(numbers) > MOST_RUNS:
        raise UsageError(f"a report has up to {MOST_RUNS} runs, and not {len(numbers)}", hint="remoterun report 3 4")
    now = time.time()
    columns = [_column(runs, number, now) for number in numbers]
    title = f"Run{'s' if len(columns) > 1 else ''} {listed(str(each.number) for each in columns)}"
    found: dict[int, Manifest] = {}
    for each in columns:
        with suppress(NotFound):  # it made none
            if each.is_answered:
                found[each.number] = list_files(each.number)
    groups = diaries(found, name)
    sizes = {f"{number}/{entry.path}": entry.size for number, files in found.items() for entry in files.files}
    shown = Shown(fitting(groups, sizes), len(steps_of(groups)))
    wanted = {path for group in shown.groups for _, path in group.steps}
    with tempfile.TemporaryDirectory(prefix="remoterun-") as folder:
        for number in {int(path.partition("/")[0]) for path in wanted}:

            def choose(manifest: Manifest, _: object, number: int = number) -> Manifest:
                return Manifest(entry for entry in manifest.files if f"{number}/{entry.path}" in wanted)

            fetch(number, Path(folder, str(number)), choose)
        with SafeFolder(folder, make=False) as root:
            body = "\n".join([f"<h1>{title}</h1>\n<p>{clock(now)}</p>", *_body(columns)])
            for part in _page(title, body, root, fps, shown.groups):
                write(part)
                shown = replace(shown, size=shown.size + len(part))
    return shown


def _page(title: str, body: str, root: SafeFolder, fps: float, groups: Sequence[Diary]) -> Iterator[bytes]:
    page = Path(__file__).with_name("report.html").read_text("utf-8")
    script = page.partition("<script>")[2].partition("</script>")[0].encode()
    page = page.replace("$HASH", base64.b64encode(hashlib.sha256(script).digest()).decode()).replace("$TITLE", title)
    before, _, rest = page.partition("$BODY")
    between, _, after = rest.partition("$ITEMS")
    yield (before + body).encode(errors="replace")
    if groups:
        yield between.encode()
        yield from _items(root, fps, groups)
        yield after.encode()
    else:
        yield after.partition("</script>")[2].encode()


def _items(root: SafeFolder, fps: float, groups: Sequence[Diary]) -> Iterator[bytes]:
    """The files as elements that are not executed. What comes from the run is JSON without `<`, or base64."""
    steps = steps_of(groups)
    index: list[dict[str, Any]] = []
    left = MOST_BYTES  # a file of a run that goes on may have grown
    for group in groups:
        items: list[dict[str, Any]] = []
        for step, path in group.steps:
            data = b""
            with suppress(FileNotFoundError), open(root.open(path), "rb") as file:  # as what lies in .git is not copied
                data = file.read(bytes_taken(group, left))
            left -= len(data)
            text = _json(data.decode(errors="replace")) if group.kind == "text" else base64.b64encode(data).decode()
            extension = posixpath.splitext(path)[1].lower()
            type_ = f"{_KINDS[group.kind]}/{_TYPES.get(extension, extension[1:])}"
            items.append({"place": steps.index(step), "id": f"{len(index)}-{len(items)}", "type": type_})
            yield f'<script type="text/plain" id="{items[-1]["id"]}">{text}</script>\n'.encode()
        index.append({"name": show(group.name), "kind": group.kind, "unit": group.unit, "items": items})
    about = _json({"fps": fps, "steps": steps, "groups": index})
    yield f'<script type="text/plain" id="index">{about}</script>'.encode()


def _json(value: Any) -> str:
    return json.dumps(value).replace("<", "\\u003c")


def _column(runs: Runs, number: int | str, now: float) -> _Column:
    run, details = runs.info(number)
    spec = details["spec"] or {}
    curves, missing = runs.metrics(number), ""
    try:
        if run.placed is not None:
            curves.update()
            run = curves.run
    except (HostError, NotFound):  # what was best is known here all the same
        missing = "its machine does not give them"  # its own words may hold its address
    facts = {**_facts(run, spec, now), "Curves": missing}
    is_answered = run.placed is not None and not missing
    column = _Column(run.number, facts, parameters(run.command, spec.get("params"), run.progress), is_answered)
    known = {series.name: series for series in run.progress.series} if run.progress is not None else {}
    column.names = sorted({*curves.names, *known}, key=rank)
    for name in column.names[:MOST_CHARTS]:
        newest = {step: value for step, _, value in curves.series(name)}  # a run may go back, to what it had saved
        points = sorted(point for point in newest.items() if _can_be_drawn(point))
        column.values[name] = _value(known.get(name) or _series(name, points))
        column.curves[name] = thinned(points)
    return column


def _series(name: str, points: Curve) -> Series:
    """Of a metric that a run's summary has no room for."""
    better, last = direction(name), points[-1] if points else (None, None)
    best = max(points, key=lambda point: point[1] * better) if points and better else (None, None)
    return Series(name=name, last=last[1], step=last[0], best=best[1], best_step=best[0])


def _facts(run: Run, spec: Mapping[str, Any], now: float) -> dict[str, str]:
    git, cost, end = spec.get("git"), run.cost(now), run.ended if run.final else now
    changed = ", changed" if git and git["dirty"] else ""
    return {
        "State": run.state.value + (f": {run.words}" if run.words and run.exit_status else ""),
        "Description": run.description or "",
        "Command": run.command,
        "Machine": next((name for name in (run.where, run.machine.name) if not {"@", "."} & set(name)), ""),
        "Commit": f"{git['commit'][:12]} ({git['branch'] or 'no branch'}{changed})" if git else "",
        "Started": "" if run.started is None else clock(run.started),
        "Duration": "" if run.started is None or end is None else duration(end - run.started),
        "Cost": "" if cost is None else dollars(cost),
        "Labels": ", ".join(run.labels),
        "Remark": run.remark,
        "Alerts": "" if run.progress is None else "\n".join(run.progress.alerts),
    }


def _value(series: Series) -> str:
    """The best one, where the name says which is better; else the last one."""
    word, value, step = "best", series.best, series.best_step
    if value is None:
        word, value, step = "last", series.last, series.step
    return "" if value is None else f"{value:.5g} ({word}{'' if step is None else f', step {step:,.0f}'})"


def _body(columns: Sequence[_Column]) -> Iterator[str]:
    yield _table(columns, [each.facts for each in columns], columns[0].facts)
    params = [each.params for each in columns]
    names = list(dict.fromkeys(name for each in params for name in each))
    if names:
        yield "<h2>Parameters</h2>"
        yield _table(columns, params, names, {name for name in names if len({each.get(name) for each in params}) > 1})
    every = {name for each in columns for name in each.names}
    series = sorted(every, key=rank)[:MOST_CHARTS]
    if series:
        yield "<h2>Values</h2>"
        if len(every) > MOST_CHARTS:
            which = columns[0].number
            yield f"<p>The first {MOST_CHARTS} of {len(every)}; <code>remoterun metrics {which}</code> has all.</p>"
        yield _table(columns, [each.values for each in columns], series)
        charts = (chart(name, {each.number: each.curves.get(name, []) for each in columns}) for name in series)
        yield "<h2>Curves</h2><section>{}</section>".format("\n".join(charts))


def _table(
    columns: Sequence[_Column], texts: Sequence[Mapping[str, str]], names: Iterable[str], differs: Iterable[str] = ()
) -> str:
    """A column for each run, and a row for each of the names that has a text."""
    heads = [f'<th><i class="{_line(at)}"></i>run {each.number}</th>' for at, each in enumerate(columns)]
    rows = [f"<tr><td></td>{''.join(heads)}</tr>"]
    for name in names:
        if any(each.get(name) for each in texts):
            head, class_ = (f"{name} ≠", ' class="differs"') if name in differs else (name, "")
            cells = "".join(f"<td>{html.escape(each.get(name) or '–')}</td>" for each in texts)
            rows.append(f"<tr{class_}><th>{html.escape(show(head))}</th>{cells}</tr>")
    return "<div><table>\n{}\n</table></div>".format("\n".join(rows))


def _line(at: int) -> str:
    """The classes of the line of a run: its colour, and how it is dashed where the colours come again."""
    return f"c{at % _COLOURS} d{at // _COLOURS}"


def chart(name: str, curves: Mapping[int, Curve]) -> str:
    """A picture of the curves, each by the number of its run, in SVG; "" without a point."""
    left, right = _range([x for points in curves.values() for x, _ in points])
    least, most = _range([y for points in curves.values() for _, y in points])
    if not any(curves.values()):
        return ""

    def across(x: float) -> str:
        return f"{_LEFT + (x - left) / (right - left) * (_RIGHT - _LEFT):.1f}"

    def down(y: float, more: int = 0) -> str:
        return f"{_TOP + (most - y) / (most - least) * (_BOTTOM - _TOP) + more:.1f}"

    lines = []
    for y in _ticks(least, most):
        lines.append(f'<line x1="{_LEFT}" x2="{_RIGHT}" y1="{down(y)}" y2="{down(y)}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{down(y, 4)}" text-anchor="end">{y:.4g}</text>')
    for x in _ticks(left, right):
        lines.append(f'<text x="{across(x)}" y="{_HEIGHT - 8}" text-anchor="middle">{x:,.6g}</text>')
    for at, (number, points) in enumerate(curves.items()):
        drawn = " ".join(f"{across(x)},{down(y)}" for x, y in points)
        lines.append(f'<polyline class="{_line(at)}" points="{drawn}"><title>run {number}</title></polyline>')
    label, picture = html.escape(show(name)), "\n".join(lines)
    svg = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label} by step">\n{picture}\n</svg>'
    return f"<figure><figcaption>{label}</figcaption>{svg}</figure>"


def thinned(points: Curve, most: int = MOST_POINTS) -> Curve:
    """The least and the largest value of each stretch, in their order; all of a short curve."""
    if len(points) <= most:
        return points
    found: Curve = []
    edges = [len(points) * place // (most // 2) for place in range(most // 2 + 1)]
    for start, end in zip(edges, edges[1:], strict=False):
        ends = {pick(range(start, end), key=lambda at: points[at][1]) for pick in (min, max)}
        found += [points[at] for at in sorted(ends)]
    return found


def _can_be_drawn(point: tuple[float, float]) -> bool:
    return all(math.isfinite(number) and abs(number) < 1e100 for number in point)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """From the least to the largest value; wider where they are the same."""
    least, most = min(values, default=0), max(values, default=0)
    large = max(abs(least), abs(most), 1e-100)
    return (least, most) if most - least > large * 1e-12 else (least - large / 2, most + large / 2)


def _ticks(least: float, most: float) -> list[float]:
    """Two to six round numbers between the two."""
    unit = 10.0 ** math.floor(math.log10((most - least) / 2))
    step = next((unit * by for by in (1, 2, 5) if (most - least) / (unit * by) <= 5), unit * 10)
    first = math.ceil(least / step)
    return [step * (first + place) for place in range(6) if step * (first + place) <= most]
