"""The page of runs as a user has it: the installed `remoterun ui`, real runs of the engine `process`, a real Chromium.

    ui.start(*words)      `remoterun run -b` in the project's folder: the number of the run
    ui.address            of the page, with its token
    ui.open(page, path)   show an address of the page
    ui.finish(number)     wait for the end of a run

The project has `train.py` (a training of toy size: metrics, colours, a bar), and `say.py`, which prints its arguments.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import remoterun
from remoterun.agent.shared.measured import POINT
from remoterun.agent.store.home import Home

if TYPE_CHECKING:
    from playwright.sync_api import Page
from tests.e2e.conftest import Place, make_place, opened
from tests.workshop import lend

TRAIN = """
import sys, time
from remoterun_log import log
print("\\033[1;31mred words\\033[0m and plain ones", flush=True)
for step in range(1, int(sys.argv[1]) + 1):
    log(step=step, loss=4 / step, accuracy=1 - 1 / step)
    print(f"step {step} of the training", flush=True)
    print(f"\\rbar {step}%", end="\\r" if step % 10 else "\\n", flush=True)
    time.sleep(float(sys.argv[2]))
"""
SAY = 'import sys, time\nprint("\\n".join(sys.argv[2:]), flush=True)\ntime.sleep(float(sys.argv[1]))\n'


@dataclass
class Ui:
    place: Place
    address: str
    started: list[int] = field(default_factory=list)

    def start(self, *words: str) -> int:
        self.started.append(int(self.place.run("run", "-b", "-y", "-q", *words).stdout))
        return self.started[-1]

    def finish(self, number: int) -> None:
        self.place.run("logs", str(number), status=None)

    def open(self, page: Page, path: str = "") -> None:
        page.goto(self.address + path)


@contextmanager
def page_of(place: Place) -> Iterator[str]:
    """`remoterun ui` at work: its address."""
    with opened(["--no-browser"], place.folder, place.env, "ui") as (address, _):
        yield address


def project(folder: Path, environment: Path) -> Place:
    """A user's place with a machine `box`, whose runs need nothing to be installed, and a project of two programs."""
    place = make_place(folder)
    lend(environment, Home.open(place.env["REMOTERUN_HOME"]))
    place.run("machines", "add", "box", "local", "--engine", "process", "--slots", "20", "--default")
    for name, text in (("train.py", TRAIN), ("say.py", SAY)):
        (place.folder / name).write_text(text)
    place.commit("Programs")
    return place


@contextmanager
def serving(folder: Path, environment: Path) -> Iterator[Ui]:
    place = project(folder, environment)
    with page_of(place) as address:
        ui = Ui(place, address)
        yield ui
        for number in ui.started:
            place.run("kill", str(number), status=None)


STATIC = Path(remoterun.__file__).parent / "ui" / "static"
Quadruple = tuple[float, float, float, float]


def packed(points: Sequence[Quadruple]) -> bytes:
    return b"".join(POINT.pack(*point) for point in points)


def write_run(folder: Path, number: int, names: list[str], metrics: bytes, usage: bytes = b"") -> None:
    """What the server answers of a run's points, as files."""
    place = folder / "api" / "runs" / str(number)
    place.mkdir(parents=True, exist_ok=True)
    (place / "names").write_text(json.dumps({"names": names, "metrics": len(metrics), "usage": len(usage)}))
    (place / "points").write_bytes(metrics)
    (place / "usage").write_bytes(usage)


def training(count: int = 300, bias: float = 0) -> list[Quadruple]:
    return [(0, 10.0 * step, 1e9 + step, 3 / (1 + step / 20) + bias) for step in range(count)]
