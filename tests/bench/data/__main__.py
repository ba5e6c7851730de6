"""Uploads and downloads beside rsync and scp, over the same sshd: `python -m tests.bench.data`.

Prints the table, and below it what was measured beside it without a bound; writes `data.json` beside this folder, or
where `--out` says; exits 1 if a row falls short. README.md says what each row is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench import table
from tests.bench.data import content
from tests.bench.data.compare import Different, check_same
from tests.bench.data.memory import Memory
from tests.bench.data.place import Place, Way, machine
from tests.bench.data.sides import Failed, Lap, Ours, Rsync, Scp, Side
from tests.bench.table import Row, at_least_times, at_most, at_most_times
from tests.lab import Lab, LabError

HERE = Path(__file__).parents[1]
NEAR, MIDDLE, FAR = 0.0, 0.020, 0.080  # round trips of the ways, in seconds
SECOND = 1.1
COPIES = 8  # of the large file, that are in memory at once, at the most
SETTLED = 3.0  # seconds after which a file counts as not being written any more
MOST_MEMORY, MOST_MEMORY_AT_LIMITS = 200e6, 300e6
MB = 1_000_000


@dataclass(frozen=True)
class Sizes:
    """How much is sent. `rounds` are those that count; one more comes before them and warms everything up."""

    big: int = 1 << 30
    far: int = 1 << 28
    files: int = 10_000
    file: int = 10_000
    lines: int = 130 * MB
    many: int = 200_000
    sparse: int = 20 << 30
    rounds: int = 5
    remark: str = ""


FULL = Sizes()
QUICK = Sizes(1 << 28, 1 << 26, 2_000, 10_000, 32 * MB, 20_000, 2 << 30, 3, " (quick)")
WARM_ROUNDS = 1
FAILURES = (Failed, Different, LabError, OSError)


class Bench:
    """One run: where it is measured, the rows so far, and whatever else was found."""

    def __init__(self, place: Place, sizes: Sizes, open_disk: Callable[[], Place]) -> None:
        self._place, self._sizes, self._open_disk = place, sizes, open_disk
        self._memory = Memory()
        self._warm: set[str] = set()
        self.rows: list[Row] = []
        self.laps: dict[str, dict[str, list[Lap]]] = {}
        self.remarks: list[str] = []

    # --- the parts

    def big(self) -> None:
        """One file, no delay, both ways; scp is there to be seen."""
        source = self._random_file(self._sizes.big)
        sides = self._sides(NEAR, scp=True)
        self._first_time(f"upload, {self._big}", source, sides, {"rsync -a": 1.0})
        self._back(f"download, {self._big}", source, sides, {"rsync -a": 1.1})

    def files(self) -> None:
        """Many small ones, no delay, both ways; scp is there to be seen."""
        source = self._random_tree()
        sides = self._sides(NEAR, scp=True)
        self._first_time(f"upload, {self._files}", source, sides, {"rsync -a": 0.9})
        self._back(f"download, {self._files}", source, sides, {"rsync -a": 1.2})

    def files_20ms(self) -> None:
        """The same at a distance. scp takes a quarter of an hour there."""
        source = self._random_tree()
        sides = self._sides(MIDDLE)
        self._first_time(f"upload, {self._files}, 20 ms", source, sides, {"rsync -a": 1.1})
        self._back(f"download, {self._files}, 20 ms", source, sides, {"rsync -a": 1.1})

    def far(self) -> None:
        """One file over a long way, both ways."""
        source = self._random_file(self._sizes.far)
        sides = self._sides(FAR)
        what = f"{_size(self._sizes.far)}, 80 ms"
        self._first_time(f"upload, {what}", source, sides, {"rsync -a": 2.5})
        self._back(f"download, {what}", source, sides, {"rsync -a": 2.5})

    def unchanged(self) -> None:
        """What is there already, sent again."""
        for tree in (False, True):
            source = self._random_tree() if tree else self._random_file(self._sizes.big)
            for rtt in (NEAR, MIDDLE):
                case = f"again, nothing changed, {self._files if tree else self._big}{_delay(rtt)}"
                self._again(case, source, self._sides(rtt), lambda: None, {"rsync -a": 1.0})

    def changed(self) -> None:
        """A large file, a little of which is new: bytes on the wire."""
        size = self._sizes.big
        part, more = size // 100, 10 * MB * size // FULL.big
        source = self._random_file(size)
        changes: dict[str, Callable[[], None]] = {
            "1 % changed in the middle": lambda: content.overwrite(source, size // 2, part),
            f"{more / MB:g} MB appended": lambda: content.append(source, more),
        }
        for change, make in changes.items():
            self._again(f"again, {change}, {self._big}", source, self._sides(NEAR), make, {}, wire=True)

    def lines(self) -> None:
        """What can be compressed."""
        source = self._source()
        content.json_lines(source, self._sizes.lines)
        case = f"upload, {self._sizes.lines / MB:g} MB of JSON lines, 20 ms"
        self._first_time(case, source, self._sides(MIDDLE), {"rsync -a": 1.0})

    def memory(self) -> None:
        """Of all laps so far."""
        self._memory_rows("all of these", self._memory, MOST_MEMORY)

    def limits(self) -> None:
        """Memory again, with many files and with a very large one; there and back."""
        many, sparse = self._sizes.many, self._sizes.sparse
        tree = self._source()
        content.random_tree(tree, many, 100)
        self._limit(f"{many:,} files", tree, self._place, self._place.folder)
        disk = self._open_disk()
        file = self._source()
        content.sparse_file(file, sparse)
        with tempfile.TemporaryDirectory(prefix="bench-data-") as folder:
            self._limit(f"a sparse file of {_size(sparse)}", file, disk, Path(folder))

    # --- how a case is measured

    def _first_time(self, case: str, source: Path, sides: Sequence[Side], bounds: Mapping[str, float]) -> None:
        """Each lap sends content that neither end of the side has ever seen."""

        def lap(side: Side) -> Lap:
            side.forget()
            lap = side.send(source, case)
            check_same(source, side.there())
            return lap

        laps = self._measure(case, {side.name: partial(lap, side) for side in sides}, bounds)
        self._time_rows(case, laps, bounds)

    def _back(self, case: str, source: Path, sides: Sequence[Side], bounds: Mapping[str, float]) -> None:
        """Each lap copies what is there into an empty folder. What was sent last must be `source`."""
        folder = self._place.folder / "back"

        def lap(side: Side) -> Lap:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            lap = side.fetch(folder / source.name, case)
            check_same(source, folder / source.name)
            return lap

        laps = self._measure(case, {side.name: partial(lap, side) for side in sides}, bounds)
        self._time_rows(case, laps, bounds)
        shutil.rmtree(folder, ignore_errors=True)

    def _again(
        self,
        case: str,
        source: Path,
        sides: Sequence[Side],
        change: Callable[[], None],
        bounds: Mapping[str, float],
        *,
        wire: bool = False,
    ) -> None:
        """Each round sends `source` once more, after a change to it that is the same for all sides.

        With `wire` our home is made anew before each round, and gets the content of before the change outside the
        clock: every version of a large file would stay in it, which is in memory.
        """
        time.sleep(SETTLED)

        def before() -> None:
            if wire:
                self._have(sides[:1], source, case)
                time.sleep(SECOND)  # or rsync would miss it
            change()

        def lap(side: Side) -> Lap:
            lap = side.send(source, case)
            check_same(source, side.there())
            return lap

        turns = {side.name: partial(lap, side) for side in sides}
        laps = self._measure(case, turns, bounds, begin=lambda: self._have(sides, source, case), before=before)
        self._time_rows(case, laps, bounds)
        if wire:
            self._wire_row(case, laps)

    def _have(self, sides: Sequence[Side], source: Path, case: str) -> None:
        for side in sides:
            side.forget()
            side.send(source, case)

    def _limit(self, what: str, source: Path, place: Place, folder: Path) -> None:
        memory = Memory()
        ours = Ours(place, place.way(), memory)
        case = f"{what}, there and back"
        back = folder / "back"
        try:
            ours.forget()
            up = ours.send(source, case)
            check_same(source, ours.there())
            back.mkdir()
            down = ours.fetch(back / source.name, case)
            check_same(source, back / source.name)
            ours.forget()
        except FAILURES as error:
            for who in ("client", "agent"):
                self.rows.append(Row(_of_memory(who, case), "bytes", at_most(MOST_MEMORY_AT_LIMITS), why=str(error)))
            return
        finally:
            shutil.rmtree(back, ignore_errors=True)
        self.laps[case] = {"ours": [up, down]}
        self.remarks.append(f"{what}: up in {up.seconds:.1f} s, down in {down.seconds:.1f} s")
        self._memory_rows(case, memory, MOST_MEMORY_AT_LIMITS)

    def _measure(
        self,
        case: str,
        turns: Mapping[str, Callable[[], Lap]],
        bounds: Mapping[str, float],
        begin: Callable[[], None] = lambda: None,
        before: Callable[[], None] = lambda: None,
    ) -> dict[str, list[Lap]] | str:
        """All laps that count; or why there are none."""
        print(f"  {case}", file=sys.stderr, flush=True)
        try:
            begin()
            laps = table.in_turns(turns, WARM_ROUNDS + self._sizes.rounds, before)
        except FAILURES as error:
            return str(error)
        self.laps[case] = {name: each[WARM_ROUNDS:] for name, each in laps.items()}
        for name in laps.keys() - bounds.keys() - {"ours"}:
            theirs, ours = (_seconds(self.laps[case][side]) for side in (name, "ours"))
            ratio = table.median_ratio(theirs, ours)
            self.remarks.append(f"{case}: {name} {statistics.median(theirs):.2f} s, {ratio:.2f} x ours")
        return self.laps[case]

    # --- rows

    def _time_rows(self, case: str, laps: dict[str, list[Lap]] | str, bounds: Mapping[str, float]) -> None:
        what = case + self._sizes.remark
        for peer, limit in bounds.items():
            if isinstance(laps, str):
                self.rows.append(Row(what, "s", at_least_times(limit), peer_name=peer, why=laps))
                continue
            ours, theirs = _seconds(laps["ours"]), _seconds(laps[peer])
            ratio = table.median_ratio(theirs, ours)
            medians = statistics.median(ours), peer, statistics.median(theirs)
            self.rows.append(Row(what, "s", at_least_times(limit), *medians, ratio))

    def _wire_row(self, case: str, laps: dict[str, list[Lap]] | str) -> None:
        what = f"{case}: on the wire{self._sizes.remark}"
        if isinstance(laps, str):
            self.rows.append(Row(what, "bytes", at_most_times(3), peer_name="rsync -a", why=laps))
            return
        ours, theirs = ([float(lap.wire) for lap in laps[side]] for side in ("ours", "rsync -a"))
        medians = statistics.median(ours), "rsync -a", statistics.median(theirs)
        self.rows.append(Row(what, "bytes", at_most_times(3), *medians, table.median_ratio(ours, theirs)))

    def _memory_rows(self, what: str, memory: Memory, limit: float) -> None:
        for who, peak in (("client", memory.client), ("agent", memory.agent)):
            row = _of_memory(who, what) + self._sizes.remark
            if not peak.size:
                self.rows.append(Row(row, "bytes", at_most(limit), why="no lap was measured"))
                continue
            self.rows.append(Row(row, "bytes", at_most(limit), peak.size))
            if peak.case != what:
                self.remarks.append(f"the {who}'s {peak.size / MB:.0f} MB were at: {peak.case}")

    # --- what they are measured with

    def _sides(self, rtt: float, *, scp: bool = False) -> list[Side]:
        """Ours first. On a way's first use each of them goes it once, outside any lap."""
        way = self._place.way(rtt)
        sides: list[Side] = [Ours(self._place, way, self._memory), Rsync(self._place, way)]
        if scp:
            sides.append(Scp(self._place, way))
        if way.alias not in self._warm:
            self._warm.add(way.alias)
            self._warm_up(way, sides)
        return sides

    def _warm_up(self, way: Way, sides: Sequence[Side]) -> None:
        tiny = self._place.folder / "tiny"
        for side in sides:
            try:
                side.forget()
                side.send(tiny, f"first contact, {way.alias}")
            except FAILURES as error:
                print(f"  {side.name} fails by {way.alias}: {error}", file=sys.stderr)

    def _source(self) -> Path:
        """The path of what is sent; nothing is there."""
        path = self._place.folder / "source" / "content"
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        return path

    def _random_file(self, size: int) -> Path:
        path = self._source()
        content.random_file(path, size)
        return path

    def _random_tree(self) -> Path:
        path = self._source()
        content.random_tree(path, self._sizes.files, self._sizes.file)
        return path

    @property
    def _files(self) -> str:
        return f"{self._sizes.files:,} files of {self._sizes.file / 1000:g} KB"

    @property
    def _big(self) -> str:
        return _size(self._sizes.big)


# In the order they are measured: `memory` is about those before it, and `limits` counts for itself.
PARTS: dict[str, Callable[[Bench], None]] = {
    "big": Bench.big,
    "files": Bench.files,
    "files-20ms": Bench.files_20ms,
    "far": Bench.far,
    "unchanged": Bench.unchanged,
    "changed": Bench.changed,
    "lines": Bench.lines,
    "memory": Bench.memory,
    "limits": Bench.limits,
}
LONG = ["limits"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.data", description="Uploads and downloads.")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--limits", action="store_true", help="200,000 files and 20 GB too, which takes long")
    parser.add_argument("--quick", action="store_true", help="smaller files and fewer rounds")
    parser.add_argument("--out", type=Path, default=HERE / "data.json", help="where the JSON goes")
    options = parser.parse_args(arguments)
    wanted = options.only or [name for name in PARTS if name not in LONG]
    wanted += LONG if options.limits else []
    missing = Lab.missing() or _missing()
    if missing:
        print(f"no lab here: {missing}", file=sys.stderr)
        return table.SHORT
    sizes = QUICK if options.quick else FULL
    with ExitStack() as stack:
        lab = stack.enter_context(Lab())
        place = stack.enter_context(Place(lab, memory=COPIES * sizes.big))
        bench = Bench(place, sizes, lambda: stack.enter_context(Place(lab, on_disk=True)))
        for name, part in PARTS.items():
            if name not in wanted:
                continue
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            begun = time.monotonic()
            part(bench)
            print(f"  {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    print(table.text(bench.rows))
    if bench.remarks:
        print("\n" + "\n".join(bench.remarks))
    table.write(options.out, bench.rows, **_found(bench, sizes))
    return table.status(bench.rows)


def _found(bench: Bench, sizes: Sizes) -> dict[str, Any]:
    laps = {
        case: {side: [asdict(lap) for lap in each] for side, each in sides.items()}
        for case, sides in bench.laps.items()
    }
    return {"sizes": asdict(sizes), "machine": machine(), "remarks": bench.remarks, "laps": laps}


def _missing() -> str | None:
    absent = [program for program in ("rsync", "scp") if shutil.which(program) is None]
    if absent:
        return f"{' and '.join(absent)} are not installed"
    return None if os.path.ismount("/dev/shm") else "/dev/shm is not a tmpfs"


def _seconds(laps: Sequence[Lap]) -> list[float]:
    return [lap.seconds for lap in laps]


def _delay(rtt: float) -> str:
    return f", {rtt * 1000:g} ms" if rtt else ""


def _size(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


def _of_memory(who: str, what: str) -> str:
    return f"resident memory of the {who}, {what}"


if __name__ == "__main__":
    sys.exit(main())
