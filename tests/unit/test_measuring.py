"""Points of metrics: what is stored, what is known of them in short, and under which names."""

from __future__ import annotations

import json
import math
import os
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.measuring import FORMATS, LINES, Point, collecting, points, reader
from remoterun.agent.measuring.collecting import Collector
from remoterun.agent.measuring.points import Points, cut_name
from remoterun.agent.measuring.summary import Summary
from remoterun.agent.running.measurer import REPORT
from remoterun.agent.shared.measured import MOST_NAME, MOST_SERIES, POINT, SHOWN, SPARK, Progress
from remoterun.agent.shared.points import read_names
from remoterun.agent.shared.records import from_json, to_json
from remoterun.agent.store.home import Home
from remoterun.agent.store.run_folder import RunFolder
from tests.measured import event, field, simple
from tests.workshop import create_run, spec_of, write_files


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = create_run(Home.open(str(tmp_path / "home")), spec_of("true"))
    os.makedirs(run.control, exist_ok=True)
    os.makedirs(run.work, exist_ok=True)
    Path(run.wrapper_file).touch()
    return run


@pytest.fixture
def write(run: RunFolder) -> Callable[..., None]:
    def write(**files: str) -> None:
        write_files(Path(run.work), {path.replace("__", "/") + ".jsonl": text for path, text in files.items()})

    return write


def lines(**values: object) -> str:
    return json.dumps(values) + "\n"


def names_of(run: RunFolder) -> list[str]:
    return read_names(run.metrics_names)


def stored(run: RunFolder) -> list[tuple[float, ...]]:
    """(series, step, value)."""
    data = Path(run.metrics_points).read_bytes()
    return [(series, step, value) for series, step, _, value in POINT.iter_unpack(data)]


def shown(run: RunFolder) -> Progress:
    return from_json(Progress, json.loads(Path(run.progress_file).read_text()))


class TestPoints:
    def test_what_a_crash_cut_is_cut_off(self, run: RunFolder) -> None:
        one = Points(run, 0)
        for name in ("a", "ö\n\ud800"):
            assert one.add(one.number(name), 1, 2, 3)
        one.flush()
        with open(run.metrics_points, "ab") as file:
            file.write(b"half")
        with open(run.metrics_names, "ab") as file:
            file.write(b'"half')
        two = Points(run, one.size)
        assert two.names == ["a", "ö\n\ud800"] and two.number("half") == 2
        two.add(2, 4, 5, 6)
        two.flush()
        assert stored(run) == [(0, 1, 3), (1, 1, 3), (2, 4, 6)]
        assert names_of(run) == ["a", "ö\n\ud800", "half"]

    def test_bounds(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        known = Points(run, 0)
        assert [known.number(str(number)) for number in range(MOST_SERIES + 2)][-3:] == [MOST_SERIES - 1, -1, -1]
        monkeypatch.setattr(points, "MANY", 10)
        monkeypatch.setattr(points, "MOST_POINTS", 14)
        assert all(known.add(0, step, step, 0) for step in range(10))
        assert [known.add(series, 0, time, 0) for series, time in ((0, 20), (0, 21), (1, 21), (0, 30))] == [
            True, False, True, True,
        ]  # fmt: skip
        assert known.add(2, 0, 0, 0) and not known.add(3, 0, 0, 0), "at the end, none"

    def test_names_are_cut(self) -> None:
        assert cut_name("a\nb\t c") == "a b c" and cut_name("") == cut_name("\n") == "value"
        assert len(cut_name("x" * 10_000)) == MOST_NAME and cut_name("\ud800") == "?"


class TestSummary:
    def test_first_last_and_best(self) -> None:
        summary = Summary()
        for step, value in enumerate((3.0, math.nan, 1.0, math.inf, 2.0)):
            summary.add(0, "loss", step, 100 + step, value)
            summary.add(1, "acc", step, 100 + step, value)
        loss, acc = summary.progress(None).series
        assert (loss.points, loss.first, loss.last, loss.step) == (5, 3, 2, 4)
        assert (loss.least, loss.most, loss.best, loss.best_step) == (1, 3, 1, 2)
        assert (acc.best, acc.best_step) == (3, 0) and loss.spark == [3, 1, 2]

    def test_a_spark_is_even_and_small(self) -> None:
        summary = Summary()
        for step in range(100_000):
            summary.add(0, "loss", step, 0.0, float(step))
        (series,) = summary.progress(None).series
        assert len(series.spark) == SPARK and series.spark[0] == 0 and series.spark[-1] >= 99_000
        apart = [after - before for before, after in zip(series.spark, series.spark[1:], strict=False)]
        assert max(apart) < 2.1 * min(apart[:-1])

    def test_the_rate_is_that_of_late(self) -> None:
        summary = Summary()
        for second in range(1000):
            summary.add(0, "loss", second if second < 900 else 900 + 10 * (second - 900), 5000 + second, 1.0)
        progress = summary.progress(2000)
        assert progress.rate == pytest.approx(10, rel=0.01) and progress.step == 1890 and progress.at == 5999
        slow = Summary()
        for step in range(10):
            slow.add(0, "loss", step, 1000.0 * step, 1.0)
        assert slow.progress(None).rate == pytest.approx(0.001)

    def test_a_total_that_counts_something_else(self) -> None:
        summary = Summary()
        summary.add(0, "loss", 500, 0.0, 1.0)
        assert [summary.progress(total).total for total in (10.0, 0.0, math.nan, 1e300, 600.0)] == [None] * 4 + [600.0]

    def test_the_most_telling_series_are_shown(self) -> None:
        summary = Summary()
        for number, name in enumerate([*(f"other{each}" for each in range(50)), "train_loss", "acc", "val_loss"]):
            summary.add(number, name, 1, 1, 1)
        shown = [series.name for series in summary.progress(None).series]
        assert shown[:3] == ["val_loss", "train_loss", "acc"] and len(shown) == SHOWN


class TestCollector:
    def test_each_file_has_its_names(self, run: RunFolder, write: Callable[..., None]) -> None:
        write(
            a__metrics=lines(loss=1, lr=2),
            b__metrics=lines(loss=3),
            c__b__metrics=lines(loss=4),
            metrics=lines(loss=5),
            val_metrics=lines(loss=6),
        )
        Path(run.reported_file).write_text(lines(loss=0))
        Collector(run).look(True)
        assert dict(zip(names_of(run), (value for _, _, value in stored(run)), strict=False)) == {
            "loss": 0, "metrics/loss": 5, "val_metrics/loss": 6, "a/loss": 1, "lr": 2, "b/loss": 3, "c/b/loss": 4,
        }  # fmt: skip

    def test_it_goes_on_where_another_ended(self, run: RunFolder, write: Callable[..., None]) -> None:
        text = "".join(lines(step=step, loss=step) for step in range(10))
        for end in range(0, len(text) + 1, 7):
            write(metrics=text[:end])
            Collector(run).look()
        write(metrics=text)
        Collector(run).look(True)
        assert stored(run) == [(0, step, step) for step in range(10)]

    def test_what_was_not_saved_is_read_again(self, run: RunFolder, write: Callable[..., None]) -> None:
        write(metrics=lines(step=1, loss=1))
        Collector(run).look()
        before = Path(run.measuring_file).read_bytes()
        write(metrics=lines(step=1, loss=1) + lines(step=2, loss=2, acc=3))
        Collector(run).look()
        Path(run.measuring_file).write_bytes(before)  # as if it was killed just before
        Collector(run).look(True)
        assert stored(run) == [(0, 1, 1), (0, 2, 2), (1, 2, 3)] and names_of(run) == ["loss", "acc"]
        for file in (run.measuring_file, run.metrics_names):
            Path(file).write_bytes(b"")  # as after a power loss
            Collector(run).look(True)
            assert stored(run) == [(0, 1, 1), (0, 2, 2), (1, 2, 3)]

    def test_a_file_that_shrinks_is_another_one(self, run: RunFolder, write: Callable[..., None]) -> None:
        collector = Collector(run)
        write(metrics=lines(step=1, loss=1) + lines(step=2, loss=2))
        assert collector.look()
        write(metrics=lines(step=1, loss=7))
        assert collector.look() and not collector.look()
        assert stored(run) == [(0, 1, 1), (0, 2, 2), (0, 1, 7)] and names_of(run) == ["loss"]

    def test_an_old_log_is_not_of_this_run(self, run: RunFolder, write: Callable[..., None]) -> None:
        write(metrics=lines(loss=1))
        os.utime(os.path.join(run.work, "metrics.jsonl"), (1, 1))
        Collector(run).look(True)
        assert names_of(run) == []

    def test_the_log_counts_until_there_are_files(self, run: RunFolder, write: Callable[..., None]) -> None:
        """Then its series are not shown; what the files have takes the place of those of the same name, and its total
        counts on."""
        log = Path(run.log)
        log.write_text("step 1/50 loss: 3.0 accuracy: 0.1\n")
        Collector(run).look()
        assert [series.name for series in shown(run).series] == ["loss", "accuracy"] and shown(run).total == 50
        write(metrics=lines(step=1, loss=3) + lines(step=2, loss=2))
        with log.open("a") as file:
            file.write("step 2/60 loss: 2.0 accuracy: 0.2\n")
        for ended in (False, True):
            Collector(run).look(ended)
            (series,) = shown(run).series
            assert (series.name, series.points, series.first, series.last) == ("loss", 2, 3, 2)
            assert shown(run).total == 60 and shown(run).step == 2
        assert names_of(run) == ["loss", "accuracy", "loss"]

    def test_what_two_formats_of_one_folder_report_counts_once(
        self, run: RunFolder, write: Callable[..., None]
    ) -> None:
        write(logs__metrics=lines(step=1, loss=1))
        Path(run.work, "logs", "metrics.csv").write_text("step,loss,acc\n1,1,2\n")
        Collector(run).look(True)
        assert sorted(names_of(run)) == ["acc", "loss"] and len(stored(run)) == 2

    def test_names_of_event_files(self, run: RunFolder) -> None:
        """`add_scalars` puts each of its values into a folder: `acc/top1` of tensorboardX, `acc_top5` of PyTorch."""
        for folder, tags in {"logs": ["loss", "lr"], "logs/acc/top1": ["acc"], "logs/acc_top5": ["acc"]}.items():
            events = b"".join(event(step, *(simple(tag, step) for tag in tags)) for step in (1, 2))
            os.makedirs(os.path.join(run.work, folder))
            Path(run.work, folder, "events.out.tfevents.1.host").write_bytes(events)
        Collector(run).look(True)
        assert sorted(names_of(run)) == ["acc/top1", "acc/top5", "loss", "lr"] and len(stored(run)) == 8

    def test_pictures_of_event_files(self, run: RunFolder, tmp_path: Path) -> None:
        """Each becomes a file beside them, whatever its name; nothing is written through a link."""
        hostile = ("fakes", "../../up", "/etc/x", "a//b", ".", "x" * 500, "link/y")
        pictures = [field(1, tag.encode()) + field(4, field(4, b"\x89PNG" + tag.encode())) for tag in hostile]
        Path(run.work, "events.out.tfevents.1.host").write_bytes(event(7, *pictures) + event(8, pictures[0]))
        os.mkdir(os.path.join(run.work, "events.media"))
        os.symlink(tmp_path, os.path.join(run.work, "events.media", "link"))
        before = sorted(tmp_path.iterdir())
        Collector(run).look(True)
        below = Path(run.work, "events.media")
        assert (below / "fakes" / "step-7.png").read_bytes() == b"\x89PNGfakes"
        assert (below / "fakes" / "step-8.png").exists() and (below / "_" / "_" / "up" / "step-7.png").exists()
        assert len(list(below.rglob("*.png"))) == len(hostile) and sorted(tmp_path.iterdir()) == before
        assert shown(run).left_out == 1, "the one behind a link"

    def test_checkpoints_of_hugging_face_are_one_file(self, run: RunFolder) -> None:
        history = [{"step": step, "loss": step} for step in range(1, 5)]
        for count in (2, 4):
            state = json.dumps({"max_steps": 9, "log_history": history[:count]})
            write_files(Path(run.work), {f"out/checkpoint-{count}/trainer_state.json": state})
            os.utime(Path(run.work, f"out/checkpoint-{count}/trainer_state.json"), (2e9 + count, 2e9 + count))
            Collector(run).look()
        assert stored(run) == [(0, step, step) for step in range(1, 5)] and shown(run).total == 9

    def test_parameters_are_bounded(self, run: RunFolder) -> None:
        params = {f"p{number}": "v" * 1000 for number in range(1000)}
        write_files(Path(run.work), {"params.json": json.dumps({"lr": 0.1, **params})})
        Collector(run).look(True)
        found = shown(run).params
        assert found["lr"] == "0.1" and len(found) == 50
        assert max(map(len, found)) <= MOST_NAME and max(map(len, found.values())) <= 200

    def test_steps_that_no_file_tells(self, run: RunFolder, write: Callable[..., None]) -> None:
        write(metrics=lines(loss=1) + lines(loss=2))
        Collector(run).look(True)
        assert stored(run) == [(0, 0, 1), (0, 1, 2)]

    @pytest.mark.parametrize("made", ["link", "pipe", "folder", "zero"])
    def test_what_is_no_file_is_not_read(self, run: RunFolder, tmp_path: Path, made: str) -> None:
        (tmp_path / "secret").write_text(lines(secret=7))
        for place in (Path(run.work, "metrics.jsonl"), Path(run.reported_file), Path(run.log)):
            place.parent.mkdir(exist_ok=True)
            if made == "pipe":
                os.mkfifo(place)
            elif made == "folder":
                place.mkdir()
            else:
                place.symlink_to(tmp_path / "secret" if made == "link" else "/dev/zero")
        Path(run.work, "out").symlink_to(tmp_path)
        Collector(run).look(True)
        assert names_of(run) == []

    def test_a_million_names_fill_nothing(self, run: RunFolder, write: Callable[..., None]) -> None:
        write(metrics="".join(lines(**{f"{number}" * 20: 1}) for number in range(20_000)))
        collector = Collector(run)
        tracemalloc.start()
        while collector.look(True):
            pass
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
        tracemalloc.stop()
        assert len(names_of(run)) == MOST_SERIES
        assert json.loads(Path(run.progress_file).read_text())["left_out"] == 20_000 - MOST_SERIES
        assert os.path.getsize(run.measuring_file) < 1 << 20

    def test_what_is_not_read_at_the_end_is_said(self, run: RunFolder, write: Callable[..., None]) -> None:
        """As many as were read before, for their bytes; nothing while the command goes on."""
        write(metrics="".join(lines(step=100_000 + step, loss=1) for step in range(100_000)))
        collector = Collector(run)
        collector.look()
        assert shown(run).left_out == 0
        left = []
        while collector.look(True):
            (loss,) = shown(run).series
            left.append(shown(run).left_out)
            assert abs(loss.points + left[-1] - 100_000) <= 1
        assert left[0] > 20_000 and left[-1] == 0 and loss.step == 199_999

    def test_a_reader_that_fails_or_hangs_gives_up_its_file_only(
        self, run: RunFolder, write: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def hang(data: bytes, state: dict[str, Any]) -> tuple[list[Point], int]:
            while b"hang" in data:
                pass
            if b"fail" in data:
                raise RuntimeError
            return read(data, state)

        read = reader(LINES)
        monkeypatch.setattr(collecting, "reader", lambda format: hang)
        monkeypatch.setattr(collecting, "PATIENCE", 0.1)
        before = signal.signal(signal.SIGPROF, collecting._out_of_time)
        try:
            write(a__metrics=lines(hang=1), b__metrics=lines(fail=1), c__metrics=lines(loss=1))
            Collector(run).look(True)
        finally:
            signal.signal(signal.SIGPROF, before)
        assert names_of(run) == ["loss"]
        given_up = json.loads(Path(run.measuring_file).read_text())["files"]
        assert sorted(name for name, file in given_up.items() if file["given_up"]) == [
            "a/metrics.jsonl",
            "b/metrics.jsonl",
        ]


def test_a_short_run_with_any_such_file_is_measured() -> None:
    usual = "metrics.jsonl x.ndjson history.json log.csv x.tsv events.out.tfevents.1.a run-1.wandb trainer_state.json"
    for name in [*usual.split(), "training.log"]:
        if any(format.matches(name) for format in FORMATS):
            assert REPORT.search(name), name


class TestFilesBesideALog:
    """A run that writes a file of metrics mostly says the same in its log."""

    BARS = (
        "Epoch 1/2\n 50/100 ━━━ 1s 20ms/step - loss: 1.4\r100/100 ━━━ 2s 20ms/step - loss: 1.2 - lr: 0.1\n"
        "Epoch 2/2\n 50/100 ━━━ 1s 20ms/step - loss: 1.0\n"
    )

    def test_steps_are_counted_as_their_total_is(self, run: RunFolder) -> None:
        """Keras with a CSVLogger: that counts epochs, the bars in the log count batches."""
        Path(run.log).write_text(self.BARS[:60])
        collector = Collector(run)
        collector.look()
        assert shown(run).step == 50
        Path(run.log).write_text(self.BARS)
        write_files(Path(run.work), {"training.log": "epoch,loss\n0,1.2\n1,1.0\n"})
        collector._next_search = 0
        collector.look()
        progress = shown(run)
        assert (progress.step, progress.total) == (150, 200)
        (loss,) = progress.series
        assert (loss.name, loss.points, loss.first, loss.last, loss.step) == ("loss", 2, 1.2, 1.0, 1)
        assert names_of(run) == ["loss", "loss"]
        assert [point for point in stored(run) if point[0] == 1] == [(1, 0, 1.2), (1, 1, 1.0)]
        with open(run.log, "a") as log:
            log.write("100/100 ━━━ 2s 20ms/step - loss: 0.9\n")
        again = Collector(run)
        again.look()
        assert shown(run).step == 200 and shown(run).series == progress.series and len(names_of(run)) == 2

    @pytest.mark.parametrize("restarted", [False, True])
    def test_one_number_of_a_file_does_not_hide_the_log(self, run: RunFolder, restarted: bool) -> None:
        Path(run.log).write_text("step 1/100 loss 2.1\nstep 2/100 loss 2.0\n")
        collector = Collector(run)
        collector.look()
        write_files(Path(run.work), {"metrics.json": '{"test_acc": 0.9}'})
        with open(run.log, "a") as log:
            log.write("step 3/100 loss 1.9\n")
        (Collector(run) if restarted else collector).look(True)
        assert {series.name: series.points for series in shown(run).series} == {"loss": 3, "test_acc": 1}

    def test_two_logs_have_one_series(self, run: RunFolder) -> None:
        for number in range(3):
            for path in (run.log, run.err):
                with open(path, "a") as log:
                    log.write(f"step {number} loss {number}.5\n")
            Collector(run).look()
        assert names_of(run) == ["loss"] and len(stored(run)) == 6


def test_a_rate_beyond_what_a_record_holds() -> None:
    summary = Summary()
    summary.mark(0, 1.0)
    summary.mark(9e17, 1.001)
    assert from_json(Progress, to_json(summary.progress(None))).rate is None
