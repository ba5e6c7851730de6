"""Readers of metrics: files as real programs write them, read at once and in pieces, and what hostile runs leave."""

import contextlib
import json
import math
import random
import struct
import textwrap
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.measuring import (
    FORMATS,
    LOG,
    MOST_DATA,
    MOST_WHOLE,
    hparams,
    lines,
    log_lines,
    reader,
    tfevents,
    wandb_file,
)
from tests.measured import Values, event, field, in_pieces, read, simple, values, varint
from tests.recorder import Recorded
from trainer.progress import Metrics, train_line, validation_line


def shown(points: Values) -> str:
    """A line for each."""
    return "\n".join(f"{name} {value:g}" + ("" if step is None else f" at {step:g}") for name, step, value in points)


def test_formats_by_name(recorded: Recorded) -> None:
    def name(file: str) -> str | None:
        found = next((format for format in FORMATS if format.matches(file)), None)
        assert found is None or callable(reader(found))
        return found.name if found else None

    recorded.cases(name)
    assert reader(LOG) is log_lines.read


class TestJson:
    def test_the_bundled_trainer(self, tmp_path: Path) -> None:
        Metrics(tmp_path / "metrics.jsonl", 0, 0).write(10, {"train_loss": 2.5, "epoch": 1})
        points = in_pieces(lines.read, (tmp_path / "metrics.jsonl").read_bytes())
        assert values(points) == [("train_loss", 10, 2.5), ("epoch", 10, 1)]
        assert points[0].time is not None and points[0].time > 1.7e9

    def test_lines_of_json(self, recorded: Recorded) -> None:
        recorded.cases(lambda line: shown(values(read(lines.read, line.encode())[0])))
        for line in ("[" * 60000, '{"a":' * 10000):
            assert read(lines.read, line.encode())[0] == []
        assert values(read(lines.read, b'{"step": %s, "loss": 1}' % (b"9" * 5000))[0]) == [("loss", math.inf, 1)]

    def test_a_nan_is_reported(self) -> None:
        assert math.isnan(read(lines.read, b'{"loss": NaN, "step": 1}')[0][0].value)

    def test_a_line_that_is_too_long_is_skipped_as_it_comes(self) -> None:
        long = json.dumps({"step": 1, **{f"n{i}": i for i in range(20000)}}).encode()
        assert len(long) > 3 * lines.LONGEST
        assert values(in_pieces(lines.read, long + b'\n{"step": 2, "loss": 1}\n')) == [("loss", 2, 1)]

    def test_half_a_line_waits_for_its_end_and_counts_without_one_at_the_end(self) -> None:
        assert lines.read(b'{"step": 1, "loss"', {}) == ([], 0)
        assert values(lines.read(b'{"step": 1, "loss": 2}', {"ended": True})[0]) == [("loss", 1, 2)]

    def test_trainer_state(self) -> None:
        """As Hugging Face's Trainer writes it: each has all that the one before has."""
        entries: list[dict[str, float]] = [
            {"epoch": 0.5, "grad_norm": 1.5, "learning_rate": 5e-05, "loss": 0.7, "step": 500},
            {"epoch": 1.0, "eval_loss": 0.6, "eval_runtime": 3.2, "step": 1000},
        ]
        state: dict[str, Any] = {}
        first = json.dumps({"global_step": 500, "max_steps": 3000, "log_history": entries[:1]}).encode()
        both = json.dumps({"global_step": 1000, "max_steps": 3000, "log_history": entries}, indent=2).encode()
        points, consumed = lines.read_trainer_state(first, state)
        assert consumed == len(first) and ("loss", 500, 0.7) in values(points)
        assert state["total"] == 3000
        points, _ = lines.read_trainer_state(both, state)
        assert ("eval_loss", 1000, 0.6) in values(points)
        assert {point.step for point in points} == {1000}, "what was read before is not read again"
        assert lines.read_trainer_state(both[:-9], state) == ([], len(both) - 9)
        for hostile in ("null", "[]", '{"log_history": 3}', '{"log_history": [3, null, [{}]], "max_steps": {}}'):
            assert lines.read_trainer_state(hostile.encode(), {})[0] == []

    def test_params(self, recorded: Recorded) -> None:
        state: dict[str, Any] = {}
        written = {"lr": 1e-4, "epochs": 3, "amp": True, "optimizer": {"name": "adam"}, "sizes": [1, "x"]}
        assert lines.read_params(json.dumps(written).encode(), state)[0] == []
        recorded.same(json.dumps(state["params"], indent=1))

    def test_simple_yaml(self) -> None:
        text = """
            # Lightning's hparams.yaml, and what hydra writes
            lr: 0.001
            name: 'a: b'
            note: "x"   # why
            optimizer:
              name: adam
              betas: [0.9, 0.99]
              nested:
                deep: 1.0
            model: !!python/object:x.Y
              width: 8
            text: |
              not read: here it is, as a pair
            - item
            last: 3
        """
        state: dict[str, Any] = {}
        data = textwrap.dedent(text).encode()
        assert hparams.read(data, state) == ([], len(data))
        assert state["params"] == {
            "lr": "0.001", "name": "a: b", "note": "x", "optimizer/name": "adam", "optimizer/betas": "[0.9, 0.99]",
            "optimizer/nested/deep": "1", "model/width": "8", "last": "3",
        }  # fmt: skip
        for hostile in (
            b"\xff: 1",
            b"a:" * 100_000,
            b": 1",
            b" " * 1_000_000 + b"a: 1",
            b"a: 1" + b" " * 100_000 + b"x",
        ):
            hparams.read(hostile, {})

    def test_a_million_params(self) -> None:
        state: dict[str, Any] = {}
        lines.read_params(json.dumps({f"p{i}": "x" * 20000 for i in range(300)}).encode(), state)
        assert len(state["params"]) == lines.MOST_PARAMS
        assert {len(text) for text in state["params"].values()} == {lines.LONGEST_PARAM}


class TestCsv:
    def test_a_table(self, recorded: Recorded) -> None:
        recorded.cases(lambda text: shown(values(in_pieces(lines.read_table, text.encode()))))

    def test_the_step_comes_before_the_epoch(self) -> None:
        """As Lightning writes it, with cells that are empty."""
        points = read(lines.read_table, b"epoch,step,train_loss,val_loss\n0,9,0.5,\n0,9,,0.6\n")[0]
        assert values(points) == [("epoch", 9, 0), ("train_loss", 9, 0.5), ("epoch", 9, 0), ("val_loss", 9, 0.6)]

    @pytest.mark.parametrize(
        "text",
        ["name,price\na,3\n", "1,2,3\n", "epoch\n1\n", "\0\xff\n", "x" * 70000 + "\nepochs,a\n", '"epoch,loss\n1,2\n'],
    )
    def test_another_table_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="no column"):
            read(lines.read_table, text.encode("latin-1"))

    def test_stable_baselines(self) -> None:
        points = read(lines.read_table, b"time/fps,time/total_timesteps,train/loss\n900,2048,0.5\n")[0]
        assert values(points) == [("time/fps", 2048, 900), ("train/loss", 2048, 0.5)]

    def test_a_million_columns(self) -> None:
        assert read(lines.read_table, b"epoch" + b",a" * 1_000_000 + b"\n1" + b",2" * 1_000_000 + b"\n")[0] == []
        points, state = read(lines.read_table, b"epoch" + b",a" * 30_000 + b"\n1" + b",2" * 30_000 + b"\n")
        assert len(state["header"]) == 1000 and values(points) == [("a", 1, 2)]

    @pytest.mark.parametrize("row", ["a,b,c,d,e", ",,,", "1", '"', "9" * 5000 + "," + "9" * 5000, "1,\xff", "1,\0"])
    def test_hostile_rows(self, row: str) -> None:
        for point in read(lines.read_table, b"epoch,loss\n" + row.encode("latin-1") + b"\n")[0]:
            assert (point.name, point.value) == ("loss", math.inf)


def tensor(name: str, *parts: bytes, plugin: bytes | None = b"scalars") -> bytes:
    metadata = b"" if plugin is None else field(9, field(1, field(1, plugin)))
    return field(1, name.encode()) + field(8, b"".join(parts)) + metadata


class TestEventFiles:
    def test_pieces_are_as_good_as_all(self) -> None:
        data = b"".join(event(step, simple("loss", step / 4), simple("lr", 1)) for step in (0, 1, 200, 70000))
        points = in_pieces(tfevents.read, data)
        assert values(points) == [
            point for step in (0, 1, 200, 70000) for point in (("loss", step, step / 4), ("lr", step, 1))
        ]
        assert {point.time for point in points} == {1.7e9}

    @pytest.mark.parametrize(
        "parts",
        [
            (field(1, 1), field(2, b""), field(4, struct.pack("<f", 3))),
            (field(1, 1), field(5, struct.pack("<f", 3))),
            (field(1, 1), varint(5 << 3 | 5) + struct.pack("<f", 3)),
            (field(1, 2), field(2, field(2, field(1, 1))), field(4, struct.pack("<d", 3))),
            (field(1, 2), field(6, struct.pack("<d", 3))),
            (field(1, 3), field(4, struct.pack("<i", 3))),
            (field(1, 3), field(7, 3)),
            (field(1, 9), field(4, struct.pack("<q", 3))),
            (field(1, 9), field(10, varint(3))),
            (field(1, 19), field(4, struct.pack("<e", 3))),
            (field(1, 19), field(13, struct.unpack("<H", struct.pack("<e", 3))[0])),
        ],
    )
    def test_tensors_of_one_number(self, parts: tuple[bytes, ...]) -> None:
        for plugin in (b"scalars", None):
            assert values(read(tfevents.read, event(5, tensor("x", *parts, plugin=plugin)))[0]) == [("x", 5, 3)]
        assert read(tfevents.read, event(5, tensor("x", *parts, plugin=b"images")))[0] == []

    def test_negative_integers(self) -> None:
        for kind, number in ((3, 7), (9, 10)):
            data = event(-1, tensor("x", field(1, kind), field(number, -3)))
            assert values(read(tfevents.read, data)[0]) == [("x", -1, -3)]

    @pytest.mark.parametrize(
        "value",
        [
            tensor("x", field(1, 1), field(2, field(2, field(1, 2))), field(4, b"12345678")),
            tensor("x", field(1, 7), field(8, b"a text")),
            tensor("x", field(1, 1)),
            tensor("x"),
            field(1, b"x") + field(3, b"histogram"),
            simple("", 3),
            b"",
        ],
    )
    def test_what_is_not_a_scalar(self, value: bytes) -> None:
        odd = event(b"inf", simple("loss", 1))  # type: ignore[arg-type]
        assert values(read(tfevents.read, odd)[0]) == [("loss", 0, 1)], "a step that is no number"
        points = in_pieces(tfevents.read, event(1, value) + event(2, simple("loss", 1)))
        assert values(points) == [("loss", 2, 1)]

    def test_a_picture_of_any_size(self) -> None:
        """One that is larger than a piece of the file is read at once, and what is larger than a whole file skipped."""
        for size in (300_000, 3 * MOST_DATA, MOST_WHOLE):
            picture = b"\x89PNG" + b"x" * size
            image = event(1, field(1, b"fakes") + field(4, field(1, 3) + field(4, picture)))
            points = in_pieces(tfevents.read, event(0, simple("loss", 2)) + image + event(2, simple("loss", 1)))
            assert values(points[:1] + points[-1:]) == [("loss", 0, 2), ("loss", 2, 1)]
            found = [(each.name, each.step, each.content) for each in points[1:-1]]
            assert found == ([("fakes.png", 1, picture)] if size < MOST_WHOLE else [])

    @pytest.mark.parametrize("content", [field(1, b"no number"), field(6, b"123") + field(7, b"1"), b"", b"\xff"])
    def test_hostile_histograms(self, content: bytes) -> None:
        with contextlib.suppress(ValueError):
            assert tfevents.read(event(1, field(1, b"x") + field(5, content)), {})[0] == []

    @pytest.mark.parametrize(
        "damaged",
        [
            b"not an event file at all",
            bytes(100),
            b"\xff" * 100,
            event(1, simple("x", 1)).replace(b"\x15", b"\x17"),
            event(1, field(1, b"x") + field(2, b"123")),
            event(1, field(1, 5) + varint(2 << 3 | 5) + b"1234"),
            event(1, tensor("x", field(1, 1), field(4, b"123"))),
            event(1, tensor("x", field(1, 3), field(7, b""))),
            event(1, field(1, b"x") + field(8, 3)),
            struct.pack("<Q", 12) + b"sums" + b"\x09" + b"\xff" * 11 + b"sums",
        ],
    )
    def test_damage_ends_the_file(self, damaged: bytes) -> None:
        good = event(1, simple("loss", 1))
        points, consumed = tfevents.read(good + damaged + good, {})
        assert values(points) == [("loss", 1, 1)] and consumed == len(good)
        with pytest.raises(ValueError, match="damaged"):
            tfevents.read(damaged + good, {})

    def test_a_length_beyond_all_ends_quietly(self) -> None:
        data = struct.pack("<Q", (1 << 64) - 1) + b"sums" + event(1, simple("x", 1))[12:]
        assert values(read(tfevents.read, data * 3)[0]) == []


def wandb(*records: bytes) -> bytes:
    """The framing, written anew: chunks in blocks of 32 KiB, each with its checksum."""
    data = bytearray(b":W&B\xe1\xbe\x00")
    for record in records:
        first = True
        while True:
            room = 32768 - len(data) % 32768
            if room < 7:
                data += bytes(room)
                continue
            part, record = record[: room - 7], record[room - 7 :]
            kind = (1 if first else 4) if not record else (2 if first else 3)
            data += struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part
            first = False
            if not record:
                break
    return bytes(data)


def history(**numbers: Any) -> bytes:
    items = [field(1, name.encode()) + field(16, json.dumps(value).encode()) for name, value in numbers.items()]
    return field(1, 7) + field(2, b"".join(field(1, item) for item in items) + field(2, field(1, 99)))


class TestWandb:
    def test_a_run(self) -> None:
        config = field(1, field(1, b"lr") + field(16, b"0.1"))
        nested = field(2, b"val") + field(2, b"loss") + field(16, b"NaN")
        stamp = field(1, b"_timestamp") + field(16, b"1.7e9")
        data = wandb(
            field(17, field(1, b"id") + field(4, config)),
            history(_step=0, loss=0.5, text="x", epoch=1, _runtime=2),
            field(2, field(1, nested) + field(1, stamp) + field(1, field(1, b"_step") + field(16, b"3"))),
            field(5, config),
            history(_step=4, loss="x" * 100_000),
            history(_step=6, loss=0.25),
        )
        points = in_pieces(wandb_file.read, data)
        assert repr(values(points)) == repr(
            [("loss", 0.0, 0.5), ("epoch", 0.0, 1.0), ("val/loss", 3.0, math.nan), ("loss", 6.0, 0.25)]
        )
        assert points[2].time == 1.7e9
        assert read(wandb_file.read, data)[1]["params"] == {"lr": "0.1"}

    def test_what_is_not_a_number(self) -> None:
        """Of a histogram there are percentiles, and of a picture no width."""
        histogram = {"_type": "histogram", "values": [10, 80, 10], "bins": [-3, -1, 1, 3]}
        parts = [
            (key, field(2, b"w") + field(2, key.encode()) + field(16, json.dumps(histogram[key]).encode()))
            for key in histogram
        ]
        record = field(2, b"".join(field(1, part) for _, part in parts))
        whole = history(_step=5, loss=1, fakes={"_type": "image-file", "width": 8, "height": 8}, val={"acc": 0.5})
        points = in_pieces(wandb_file.read, wandb(record, whole))
        assert values(points) == [
            ("w/p05", None, -2), ("w/p50", None, 0), ("w/p95", None, 2), ("loss", 5, 1), ("val/acc", 5, 0.5),
        ]  # fmt: skip

    def test_records_at_the_ends_of_blocks(self) -> None:
        for size in range(32768 - 60, 32768, 3):
            data = wandb(field(3, b"x" * size), *(history(_step=step, loss=1) for step in range(5)))
            assert [point.step for point in read(wandb_file.read, data, 1000)[0]] == [0, 1, 2, 3, 4]

    def test_damage_ends_the_file(self) -> None:
        data = wandb(*(history(_step=step, loss=1) for step in range(3)))
        damaged = data[:-5] + b"x" + data[-4:]
        points, consumed = wandb_file.read(damaged, state := {})
        assert [point.step for point in points] == [0, 1]
        with pytest.raises(ValueError, match="damaged"):
            wandb_file.read(damaged[consumed:], state)
        for other in (b"SQLite format 3", b":W&B\xe1\xbe\x01" + data[7:]):
            with pytest.raises(ValueError, match="not a file"):
                wandb_file.read(other, {})

    def test_hostile_chunks(self) -> None:
        def chunk(kind: int, part: bytes) -> bytes:
            return struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part

        begin = b":W&B\xe1\xbe\x00"
        endless = begin + chunk(2, b"") + chunk(3, b"") * 4679 + b"\0" + (chunk(3, b"") * 4681 + b"\0") * 45
        assert len(endless) > MOST_DATA
        assert wandb_file.read(endless[:MOST_DATA], {}) == ([], 0), "a record that never ends"
        started = begin + chunk(2, b"x") + chunk(1, history(_step=1, a=1))
        assert values(read(wandb_file.read, started)[0]) == [("a", 1, 1)]
        for part in (b"\xff" * 50, field(2, 5), field(2, field(1, 5)), field(2, field(1, field(1, 5)))):
            with pytest.raises(ValueError, match="damaged"):
                read(wandb_file.read, begin + chunk(1, part))


def log(text: str, **state: Any) -> tuple[Values, dict[str, Any]]:
    points, state = read(log_lines.read, text.encode(), **state)
    return values(points), state


class TestLog:
    def test_lines_of_logs(self, recorded: Recorded) -> None:
        """Their numbers, and how many steps there will be; of lines that have none, nothing."""

        def numbers(text: str) -> str:
            points, state = log(text)
            return shown(points) + (f"\nof {state['total']:g}" if state.get("total") else "")

        recorded.cases(numbers)
        assert log("x" * 3000 + " step 3 loss: 1")[0] == []

    def test_the_bundled_trainer(self) -> None:
        lines = [train_line(142, 2840, 0, 2.25, 0.02, "0:00:55"), validation_line(142, 2840, 2.5, True)]
        points = in_pieces(log_lines.read, "\n".join(lines).encode())
        assert values(points) == [("train_loss", 142, 2.25), ("val_loss", 142, 2.5)]
        assert log("\n".join(lines))[1]["total"] == 2840

    def test_hugging_face_counts_by_its_bar(self) -> None:
        """Its dictionaries name the epoch only; the bar of an evaluation is another one."""
        text = (
            "  2%|▏  | 10/500 [00:01<00:10]\r{'loss': 0.5, 'epoch': 0.1}\n"
            "  0%|  | 0/32 [00:00<?]\r 50%|▏ | 16/32 [00:01<?]\r"
            "{'eval_loss': 0.25, 'epoch': 0.1}\n  4%|▏  | 20/500 [00:02<00:20]\r{'loss': 0.125, 'epoch': 0.2}\n"
        )
        points, state = log(text)
        assert points == [("loss", 10, 0.5), ("eval_loss", 10, 0.25), ("loss", 20, 0.125)]
        assert state["total"] == 500

    def test_a_bar_drawn_a_million_times_is_not_as_many_points(self) -> None:
        text = "".join(
            "Epoch 1/2\n" if n == 1 else f"\r{n}/100000 ━━ 1s 5ms/step - loss: 0.5" for n in range(1, 100001)
        )
        points, state = log(text)
        assert 190 < len(points) <= 201 and points[-1] == ("loss", 100000, 0.5)
        assert state["total"] == 200000

    def test_the_users_regular_expressions(self) -> None:
        patterns = [
            r"got (?P<reward>\S+) at (?P<step>\d+)",
            r"E(?P<epoch>\d+) (?P<good>\S+)( (?P<bad>\d+))?",
            "(?P<x>z)?",
        ]
        text = "got 5 at 10\ngot nothing at 20\nE3 4\nstep 7 got 3 at x, loss: 2\n"
        points, _ = log(text, metrics=patterns)
        assert points == [("reward", 10, 5), ("good", 3, 4), ("loss", 7, 2)]
        assert log("step 9 value 3", metrics=[r"value (?P<v>\d)"])[0] == [("v", 9, 3)]


def hostile() -> Iterator[bytes]:
    """Made of pieces of all formats, damaged at random; the same ones each time."""
    draw = random.Random(1)
    good = [
        b'{"step": 10, "loss": {"a": 1e999}}\n',
        "Epoch 3/10\r\n 12/120 ━━ - loss: 0.5\x08\x08\r".encode(),
        b"{'loss': 0.1, 'epoch': 1.0} | 5/7 [\n{\"epoch\": 3/4, step 1/2\n",
        b"epoch,loss\n1,2\n",
        event(3, simple("x", 1), tensor("y", field(1, 1), field(4, b"1234"))),
        wandb(history(_step=1, loss=2), field(17, field(4, b""))),
        json.dumps({"log_history": [{"step": 1, "loss": 2}], "max_steps": 5}).encode(),
    ]
    yield from (bytes(5000), b"\xff" * 5000, b"\n" * 5000, b"", b"9" * 5000, b'"' * 5000, b"{" * 5000)
    for _ in range(400):
        data = bytearray(b"".join(draw.choices(good, k=draw.randint(1, 4))))
        for _ in range(draw.randint(0, 6)):
            at = draw.randrange(len(data))
            data[at : at + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
            data += b"" if data else b"x"
        yield bytes(data)


@pytest.mark.parametrize("format", [*FORMATS, LOG], ids=lambda format: format.name)
def test_hostile_files_raise_value_errors_only(format: Any) -> None:
    for data in hostile():
        try:
            points, _ = read(reader(format), data, 100)
        except ValueError:
            continue
        for point in points:
            assert isinstance(point.name, str) and point.name and isinstance(point.value, float)
            assert all(each is None or isinstance(each, float) for each in (point.step, point.time))


@pytest.mark.parametrize(
    "unit",
    [*'a9 {"=:/|\t.-', "loss=", "a.", "train ", "step", "epoch ", "1/", "| 1/2 ", "e9", "nan ", "loss 1 ",
     "step 1 a=1 ", "\x1b[", "1e", "batch (", "\r", "\n", "1,", ",", "a:1 ", "loss: 1e5e", "'"],
)  # fmt: skip
def test_time_grows_with_the_size_only(unit: str) -> None:
    """A part of what may come at once takes ten seconds where a reader is quadratic, and else less than a second."""
    data = (unit * 300_000).encode()[:300_000]
    rows = b"".join(data[at : at + 1990] + b"\n" for at in range(0, len(data), 1990))
    for function in (log_lines.read, lines.read, lines.read_table, lines.read_params, lines.read_trainer_state):
        for each in (data, rows):
            began = time.process_time()
            with contextlib.suppress(ValueError):
                function(each, {"ended": True})
            assert time.process_time() - began < 5
