"""Uploads and downloads beside rsync, over the same sshd: `python -m tests.bench.data`.

Prints the table, and writes `data.json` beside itself, or where `--out` says; exits 1 if a row falls short. README.md
says what each row is.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.bench import content, table
from tests.bench.content import check_same
from tests.bench.sides import Lap, Memory, Ours, Place, Rsync, Side, User
from tests.bench.table import Row, at_least_times, at_most, at_most_times
from tests.lab import Lab

NEAR, WIRE, MIDDLE, FAR = 0.0, 0.000_2, 0.020, 0.080  # round trips of the ways, in seconds
RSYNC = "rsync -a"
TINY = 600  # bytes of each of very many files
SECOND = 1.1
COPIES = 8  # of the large file, that are in memory at once, at the most
UNTOUCHED = 3.0  # seconds after which a file counts as not being written any more
MB = 1_000_000
WARM_ROUNDS = 1


@dataclass(frozen=True)
class Sizes:
    """How much is sent. `rounds` are those that count; one more comes before them and warms everything up."""

    big: int = 1 << 30
    far: int = 1 << 28
    files: int = 10_000
    file: int = 10_000
    lines: int = 130 * MB
    rounds: int = 5
    many: int = 100_000
    remark: str = ""


FULL = Sizes()
QUICK = Sizes(1 << 28, 1 << 26, 2_000, 10_000, 32 * MB, 3, 20_000, " (quick)")


class Bench:
    """One run: where it is measured, the rows so far, and the laps that they are made of."""

    def __init__(self, place: Place, sizes: Sizes) -> None:
        self._place, self._sizes = place, sizes
        self._memory = Memory()
        self._warm: set[float] = set()
        self.rows: list[Row] = []
        self.laps: dict[str, dict[str, list[Lap]]] = {}

    # --- the parts

    def big(self) -> None:
        """One file on a wire that people have, both ways: ours may not be the slower one."""
        self._both_ways(f"{_size(self._sizes.big)}, 1 Gbit", self._random_file(self._sizes.big), WIRE, 0.98, 0.98)

    def files(self) -> None:
        """Many small ones, no delay, both ways."""
        source = self._random_tree()
        self._both_ways(self._files, source, NEAR, 0.9, 1.2)
        self._both_ways(f"{self._files}, 1 Gbit", source, WIRE, 0.9, 1.2)

    def files_20ms(self) -> None:
        """The same at a distance."""
        self._both_ways(f"{self._files}, 20 ms", self._random_tree(), MIDDLE, 1.1, 1.1)

    def far(self) -> None:
        """One file over a long way, both ways."""
        self._both_ways(f"{_size(self._sizes.far)}, 80 ms", self._random_file(self._sizes.far), FAR, 2.5, 2.5)

    def unchanged(self) -> None:
        """What the host has already, sent again."""
        big = self._random_file(self._sizes.big)
        self._unchanged(_size(self._sizes.big), big)
        self._unchanged(self._files, self._random_tree())

    def changed(self) -> None:
        """A large file, a little of which is new: bytes on the wire."""
        size = self._sizes.big
        part, more = size // 100, 10 * MB * size // FULL.big
        source = self._random_file(size)
        self._changed("1 % changed in the middle", source, lambda: content.overwrite(source, size // 2, part))
        self._changed(f"{more / MB:g} MB appended", source, lambda: content.append(source, more))

    def lines(self) -> None:
        """What can be compressed."""
        source = self._source()
        content.json_lines(source, self._sizes.lines)
        self._first_time(f"{self._sizes.lines / MB:g} MB of JSON lines, 20 ms", source, self._sides(MIDDLE), 1.0)

    def many(self) -> None:
        """So many small files that each of them counts: a copy of them, and a run and `gc` on this machine."""
        source, sizes = self._source(), self._sizes
        content.random_tree(source, sizes.many, TINY)
        what, sides = f"{sizes.many:,} files of {TINY} bytes", self._sides(NEAR)
        _begin(sides.values(), source)
        self._back(what, source, sides, 1 / 3)
        with tempfile.TemporaryDirectory(prefix="bench-many-") as disk:
            self._again_on_disk(Path(disk), f"{what}, on disk{sizes.remark}")

    def _again_on_disk(self, folder: Path, what: str) -> None:
        """A disk takes most of the time that very many files need, of `cp` as of us."""
        content.random_tree(folder / "tree", self._sizes.many, TINY)
        user = User(folder / "user", folder / "tree")
        again = ("run", "-y", "-t", "local", "--framework", "none", "true")
        user.remoterun(*again)
        turns = {"ours": lambda: user.remoterun(*again), "cp -r": user.copy}
        laps = table.in_turns(turns, WARM_ROUNDS + self._sizes.rounds, lambda: None)
        ours, theirs = (laps[side][WARM_ROUNDS:] for side in ("ours", "cp -r"))
        self.rows.append(
            table.beside(f"a run again, nothing changed, {what}", "s", at_most_times(1.5), ours, "cp -r", theirs)
        )
        self.rows.append(Row(f"machines gc, {what}", "s", at_most(5.0), user.remoterun("machines", "gc", "local")))

    def memory(self) -> None:
        """Of all laps so far."""
        for who, most in self._memory.peaks.items():
            what = f"resident memory of the {who}, all of these{self._sizes.remark}"
            self.rows.append(Row(what, "bytes", at_most(200 * MB), most or None))

    # --- how a case is measured

    def _both_ways(self, what: str, source: Path, rtt: float, up: float, down: float) -> None:
        """`up`, `down`: how many times as fast as rsync at least."""
        sides = self._sides(rtt)
        self._first_time(what, source, sides, up)
        self._back(what, source, sides, down)

    def _first_time(self, what: str, source: Path, sides: Mapping[str, Side], limit: float) -> None:
        """Each lap sends content that neither end of the side has ever seen."""

        def lap(side: Side) -> Lap:
            side.forget()
            return _sent(source, side)

        self._time_row(f"upload, {what}", sides, lap, limit)

    def _back(self, what: str, source: Path, sides: Mapping[str, Side], limit: float) -> None:
        """Each lap copies what was sent last, which is `source`, into an empty folder."""
        folder = self._place.folder / "back"

        def lap(side: Side) -> Lap:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            lap = side.fetch(folder / source.name)
            check_same(source, folder / source.name)
            return lap

        self._time_row(f"download, {what}", sides, lap, limit)
        shutil.rmtree(folder, ignore_errors=True)

    def _unchanged(self, what: str, source: Path) -> None:
        time.sleep(UNTOUCHED)
        for rtt, way in ((NEAR, ""), (MIDDLE, ", 20 ms")):
            sides = self._sides(rtt)
            _begin(sides.values(), source)
            self._time_row(f"again, nothing changed, {what}{way}", sides, partial(_sent, source), 1.0)

    def _changed(self, what: str, source: Path, change: Callable[[], None]) -> None:
        """Each round sends `source` once more, after a change to it that is the same for all sides.

        Our home is made anew before each round, and gets the content of before the change outside the clock: every
        version of a large file would be kept in it, which is in memory.
        """
        time.sleep(UNTOUCHED)
        sides = self._sides(NEAR)
        _begin(sides.values(), source)

        def before() -> None:
            _begin([sides["ours"]], source)
            time.sleep(SECOND)  # or rsync would miss it
            change()

        case = f"again, {what}, {_size(self._sizes.big)}: on the wire{self._sizes.remark}"
        laps = self._measure(case, sides, partial(_sent, source), before)
        ours, theirs = ([float(lap.wire) for lap in laps[side]] for side in ("ours", RSYNC))
        self.rows.append(table.beside(case, "bytes", at_most_times(3), ours, RSYNC, theirs))

    def _time_row(self, what: str, sides: Mapping[str, Side], lap: Callable[[Side], Lap], limit: float) -> None:
        case = what + self._sizes.remark
        laps = self._measure(case, sides, lap)
        ours, theirs = ([lap.seconds for lap in laps[side]] for side in ("ours", RSYNC))
        self.rows.append(table.beside(case, "s", at_least_times(limit), ours, RSYNC, theirs, faster=True))

    def _measure(
        self,
        case: str,
        sides: Mapping[str, Side],
        lap: Callable[[Side], Lap],
        before: Callable[[], None] = lambda: None,
    ) -> dict[str, list[Lap]]:
        """All laps that count."""
        print(f"  {case}", file=sys.stderr, flush=True)
        turns = {name: partial(lap, side) for name, side in sides.items()}
        laps = table.in_turns(turns, WARM_ROUNDS + self._sizes.rounds, before)
        self.laps[case] = {name: each[WARM_ROUNDS:] for name, each in laps.items()}
        return self.laps[case]

    # --- what they are measured with

    def _sides(self, rtt: float) -> dict[str, Side]:
        """On a way's first use each of them goes it once, outside any lap."""
        sides: dict[str, Side] = {"ours": Ours(self._place, rtt, self._memory), RSYNC: Rsync(self._place, rtt)}
        if rtt not in self._warm:
            self._warm.add(rtt)
            tiny = self._place.folder / "tiny"
            tiny.write_text("first contact\n")
            _begin(sides.values(), tiny)
        return sides

    def _source(self) -> Path:
        """The path of what is sent; nothing is there."""
        path = self._place.folder / "source" / "content"
        shutil.rmtree(path.parent, ignore_errors=True)
        path.parent.mkdir()
        return path

    def _random_file(self, size: int) -> Path:
        path = self._source()
        content.append(path, size)
        return path

    def _random_tree(self) -> Path:
        path = self._source()
        content.random_tree(path, self._sizes.files, self._sizes.file)
        return path

    @property
    def _files(self) -> str:
        return f"{self._sizes.files:,} files of {self._sizes.file / 1000:g} KB"


# In the order they are measured: `memory` is about those before it.
PARTS = ("big", "files", "files-20ms", "far", "unchanged", "changed", "lines", "many", "memory")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write the JSON; 1 if a bound is missed."""
    options = table.options("data", arguments, __doc__, PARTS)
    missing = Lab.missing() or (None if os.path.ismount("/dev/shm") else "/dev/shm is not a tmpfs")
    if missing:
        print(f"no lab here: {missing}", file=sys.stderr)
        return table.SHORT
    sizes = QUICK if options.quick else FULL
    with Lab() as lab, Place(lab, COPIES * sizes.big) as place:
        bench = Bench(place, sizes)
        table.measure(bench, PARTS, options.only)
    laps = {
        case: {side: [asdict(lap) for lap in each] for side, each in sides.items()}
        for case, sides in bench.laps.items()
    }
    return table.finish(options.out, bench.rows, sizes=asdict(sizes), laps=laps)


def _begin(sides: Iterable[Side], source: Path) -> None:
    """Let each side have this content, and no other."""
    for side in sides:
        side.forget()
        side.send(source)


def _sent(source: Path, side: Side) -> Lap:
    lap = side.send(source)
    check_same(source, side.arrived())
    return lap


def _size(size: int) -> str:
    return f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"


if __name__ == "__main__":
    sys.exit(main())
