"""The page of runs in a real Chromium, and what it stands on: `python -m tests.bench.ui`.

Prints the table, and writes `ui.json` beside itself, or where `--out` says; exits 1 if a row falls short. README.md
says what each row is, watch.js how a page is watched.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remoterun.agent.measuring import FORMATS, MOST_DATA, reader
from remoterun.agent.measuring.points import Points
from remoterun.agent.store.home import Home
from tests.bench import table
from tests.bench.table import Row, at_least_times, at_most
from tests.bench.viewer import MANY, Viewer
from tests.browser import missing

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "remoterun" / "ui" / "static"
REQUIREMENTS = HERE / "requirements-ui.txt"
SCALARS = 75_000
SIDE_BY_SIDE, POINTS, TABS = 10, 100_000, 8
NAMES = ("loss", "val_loss", "accuracy", "lr")
LOG_LINES, LINE = 1_000_000, 100  # of a log, and bytes of each
WRITES = (
    f"""python3 -c 'for step in range({LOG_LINES}): print(("step %d: loss 0.1234" % step).ljust({LINE - 1}, "."))'"""
)
STAMPS = "while :; do date +%s.%N; sleep 0.2; done"
"""Writes when each of its lines was written."""
REPORTS = """python3 -c '
import time
from remoterun_log import log
for step in range(10**6):
    log(step=step, **{"metric%d" % (step % 10): 1 / (step + 1)})
    time.sleep(0.1)'"""


class Bench:
    """The rows so far, and what they are made of."""

    def __init__(self, viewer: Viewer, quick: bool) -> None:
        self._viewer, self._quick = viewer, quick
        self._rounds = 3 if quick else 9
        self.rows: list[Row] = []
        self.laps: dict[str, Any] = {}

    def list(self) -> None:
        """From the navigation to the first rows, everything being in the browser's cache."""
        with self._viewer.tab() as page:
            self._seconds(f"first paint of the list, {MANY:,} runs", 0.3, self._laps(page.context, "", "list"))

    def line(self) -> None:
        """From when a command writes a line to the frame that shows it, five lines a second."""
        count = 25 if self._quick else 100
        with self._viewer.tab() as page, self._viewer.live(STAMPS) as (run,):
            self._load(page, f"runs/{run.number}", "log")
            page.evaluate("bench.ages.length = 0")  # earlier ones were written before the page was there
            page.wait_for_function(f"() => bench.ages.length >= {count + 5}")
            laps = [lap / 1000 for lap in page.evaluate("bench.ages")[5:]]
        self._seconds(f"a line printed (engine {self._viewer.engine}) to its pixel, p50", 0.1, laps)

    def tabs(self) -> None:
        """The last tab of eight, each of which shows a run of its own that goes on, until list and log are there."""
        with self._viewer.tab() as first, self._viewer.live(STAMPS, TABS) as runs:
            pages = [first, *(first.context.new_page() for _ in runs[2:])]
            for page, run in zip(pages, runs[1:], strict=True):
                self._load(page, f"runs/{run.number}", "log")
            laps = self._laps(first.context, f"runs/{runs[0].number}", "list", "log")
            for page in pages:
                before = page.evaluate("bench.ages.length")
                page.wait_for_function(f"() => bench.ages.length > {before}")  # each of them is live
        self._seconds(f"tab {TABS} beside {TABS - 1} live ones, list and log", 1.0, laps)

    def compare(self) -> None:
        """Until the charts of all points are whole; then parts of them are chosen with the mouse."""
        runs = [self._viewer.ended("true") for _ in range(SIDE_BY_SIDE)]
        for run in runs:
            points = Points(Home.open(str(self._viewer.home)).run(run.key), 0)
            numbers = [points.number(name) for name in NAMES]
            for step in range(POINTS // len(NAMES)):
                value = 2 + 2 * math.exp(-step / 5000) + 0.1 * math.sin(step * run.number)
                for number in numbers:
                    points.add(number, step, run.created + step / 10, value / (number + 1))
            points.flush()
        path, laps = "compare/" + ",".join(str(run.number) for run in runs), []
        with self._viewer.tab() as page:
            for _ in range(self._rounds + 1):
                with contextlib.closing(page.context.new_page()) as lap:
                    laps.append(self._drawn(lap, path))
            self._drawn(page, path)
            zooms = self._zooms(page)
        first, whole = zip(*laps[1:], strict=True)
        what = f"{SIDE_BY_SIDE} runs of {POINTS:,} points"
        self.laps[f"{what}, all points"] = whole
        self._seconds(f"{what}, first paint of all curves", 0.5, first)
        self._seconds(f"{what}, a zoom", 0.05, zooms)

    def log(self) -> None:
        """A long log from the navigation to its end on the screen; and what the page takes of memory then."""
        run = self._viewer.ended(WRITES)
        path, what = f"runs/{run.number}#log", f"a log of {LOG_LINES * LINE / 1e6:.0f} MB"
        with self._viewer.tab() as page:
            self._seconds(f"{what}, opened at its end", 0.5, self._laps(page.context, path, "log"))
            self._load(page, path, "log")
            last = page.locator(".log .lines div div").last
            assert last.is_visible()
            assert last.text_content() == f"step {LOG_LINES - 1}: loss 0.1234".ljust(LINE - 1, ".")
            self.rows.append(Row(f"{what}, memory of its page", "bytes", at_most(200e6), _memory(page)))

    def processor(self) -> None:
        """What the agent's processes use of one core: the supervisor of the run, and the one that measures it."""
        seconds = 10 if self._quick else 30
        with self._viewer.live(REPORTS, machine="here") as (run,):
            time.sleep(5)
            before = {verb: table.processor_seconds(verb, run.key) for verb in ("measure", "supervise")}
            assert all(before.values()), "both are there"
            time.sleep(seconds)
            used = {verb: (table.processor_seconds(verb, run.key) - time_) / seconds for verb, time_ in before.items()}
        self.laps["processor"] = used
        self.rows.append(Row("agent's processor time, 10 metrics a second", "share", at_most(0.01), sum(used.values())))

    def tensorboard(self) -> None:
        """All scalars of an event file, in the two forms in which they are written."""
        python = str(table.programs(REQUIREMENTS) / "python")
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([python, "-c", WRITE_EVENTS, folder, str(SCALARS)], check=True)
            (file,) = Path(folder).iterdir()

            def peer() -> float:
                said = subprocess.run([python, "-c", READ_EVENTS, folder], check=True, capture_output=True, text=True)
                seconds, count = said.stdout.split()
                assert int(count) == SCALARS
                return float(seconds)

            sides = table.in_turns({"ours": lambda: _read_events(file), "peer": peer}, self._rounds)
        what, name = f"{SCALARS:,} points of a TensorBoard file", "EventAccumulator"
        self.laps[what] = sides
        bound = at_least_times(2)
        self.rows.append(table.beside(what, "s", bound, sides["ours"], name, sides["peer"], faster=True))

    def code(self) -> None:
        """What a browser would get, each file on its own."""
        size = sum(len(gzip.compress(path.read_bytes(), mtime=0)) for path in STATIC.iterdir())
        self.rows.append(Row("code of the page, gzipped", "bytes", at_most(80e3), size))

    def _seconds(self, what: str, most: float, laps: Sequence[float]) -> None:
        self.laps[what] = laps
        self.rows.append(Row(what, "s", at_most(most), statistics.median(laps)))

    def _laps(self, context: BrowserContext, path: str, *parts: str) -> Sequence[float]:
        """Each in a tab of its own, so that nothing is left of the one before but the browser's cache."""
        laps = []
        for _ in range(self._rounds + 1):
            with contextlib.closing(context.new_page()) as page:
                laps.append(self._load(page, path, *parts))
        return laps[1:]

    def _load(self, page: Page, path: str, *parts: str) -> float:
        """Seconds from the navigation until all parts of the page are seen."""
        page.goto(self._viewer.address + path, wait_until="commit")
        seen = page.wait_for_function("parts => parts.every(part => bench.seen[part]) && bench.seen", arg=parts)
        return max(float(seen.json_value()[part]) for part in parts) / 1000

    def _drawn(self, page: Page, path: str) -> tuple[float, float]:
        """Seconds from the navigation until each chart has a curve of each run, and until all of their points are
        there: the first picture with as many lines as the last one."""
        first = self._load(page, path, "curves")
        page.wait_for_function("() => performance.now() - bench.pictures.at(-1)?.at > 2000")
        pictures = page.evaluate("bench.pictures")
        whole = next(picture for picture in pictures if picture["lines"] == pictures[-1]["lines"])
        return first, whole["at"] / 1000

    def _zooms(self, page: Page) -> Sequence[float]:
        """Seconds from the end of a choice with the mouse, or of the double click that undoes it, to the charts."""
        box = page.locator(".plot canvas").last.bounding_box()
        assert box is not None
        left, top, laps = box["x"], box["y"] + box["height"] / 2, []
        for _ in range(self._rounds):
            page.evaluate("bench.zooms = {}")
            page.mouse.move(left + 100, top)
            page.mouse.down()
            page.mouse.move(left + 200, top, steps=5)
            page.mouse.up()
            laps.append(page.wait_for_function("() => bench.zooms.pointerup").json_value() / 1000)
            page.mouse.dblclick(left + 150, top)
            laps.append(page.wait_for_function("() => bench.zooms.dblclick").json_value() / 1000)
        return laps


WRITE_EVENTS = """
import sys
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.scalar.metadata import create_summary_metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util.tensor_util import make_tensor_proto

writer = EventFileWriter(sys.argv[1], max_queue_size=1000, flush_secs=600)
for step in range(int(sys.argv[2])):
    if step % 2:
        value = Summary.Value(tag="loss", simple_value=1 / (step + 1))
    else:
        value = Summary.Value(tag="epoch_loss", tensor=make_tensor_proto(1 / (step + 1)))
        value.metadata.CopyFrom(create_summary_metadata(display_name="", description=""))
    writer.add_event(Event(wall_time=1e9 + step, step=step, summary=Summary(value=[value])))
writer.close()
"""
READ_EVENTS = """
import sys, time
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

begun = time.perf_counter()
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0})
events.Reload()
tags = events.Tags()
found = [event for tag in tags["scalars"] for event in events.Scalars(tag)]
found += [event for tag in tags["tensors"] for event in events.Tensors(tag)]
print(time.perf_counter() - begun, len(found))
"""


def _read_events(file: Path) -> float:
    """Seconds, as the process that measures a run reads a file."""
    begun = time.perf_counter()
    form = next(each for each in FORMATS if each.matches(file.name))
    data, at, count = file.read_bytes(), 0, 0
    state: dict[str, Any] = {"ended": False}
    while at < len(data):
        points, consumed = reader(form)(data[at : at + MOST_DATA], state)
        at, count = at + consumed, count + len(points)
    assert count == SCALARS, count
    return time.perf_counter() - begun


def _memory(page: Page) -> int:
    """Bytes of memory of its own that the browser's largest process that shows pages has."""
    assert page.context.browser is not None
    processes = page.context.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    states = [Path(f"/proc/{each['id']}/status").read_text() for each in processes if each["type"] == "renderer"]
    kinds = ("RssAnon:", "RssShmem:")
    return max(sum(int(state.partition(kind)[2].split()[0]) << 10 for kind in kinds) for state in states)


PARTS = ("list", "line", "tabs", "compare", "log", "processor", "tensorboard", "code")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    options = table.options("ui", arguments, __doc__, PARTS)
    if missing():
        print(f"no browser here: {missing()}", file=sys.stderr)
        return table.SHORT
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed command has its modules compiled
    with tempfile.TemporaryDirectory(prefix="bench-ui-") as folder, Viewer(Path(folder)) as viewer:
        bench = Bench(viewer, options.quick)
        table.measure(bench, PARTS, options.only)
    return table.finish(options.out, bench.rows, engine=viewer.engine, laps=bench.laps)


if __name__ == "__main__":
    sys.exit(main())
