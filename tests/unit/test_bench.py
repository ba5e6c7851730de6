"""The benches' table and what is reckoned in it; the figures themselves are taken by `python -m tests.bench`."""

import json
import math
import random
import sys
from pathlib import Path

import pytest

from tests.bench import __main__ as bench
from tests.bench import table
from tests.bench.table import Row, at_least_times, at_most, at_most_times


def test_a_row_is_judged_by_what_its_bound_is_of() -> None:
    assert Row("start", "s", at_most(0.4), ours=0.4).ok
    assert not Row("start", "s", at_most(0.4), ours=0.41, peer=9.0, ratio=0.05).ok
    assert Row("speed", "characters/s", at_least_times(1.4), ours=98_000, peer=70_000, ratio=1.4).ok
    assert not Row("speed", "characters/s", at_least_times(1.4), ours=98_000, peer=71_000, ratio=1.38).ok
    assert Row("on the wire", "bytes", at_most_times(2), ours=4e6, peer=2e6, ratio=2.0).ok
    assert not Row("on the wire", "bytes", at_most_times(2), ours=4.1e6, peer=2e6, ratio=2.05).ok


def test_what_was_measured_on_a_loud_machine_is_short() -> None:
    row = Row("speed", "characters/s", at_least_times(1.4), 98_000, "", 60_000, 1.6, why="loud", void=True)
    assert not row.ok and row.cells()[-1] == "short: loud"


@pytest.mark.parametrize("ours", [None, math.nan])
def test_what_was_not_measured_is_short(ours: float | None) -> None:
    assert not Row("loss", "nats", at_most(1.56), ours=ours, why="no network").ok
    assert not Row("speed", "characters/s", at_least_times(1.4), ours=1.0, ratio=ours).ok


def test_the_table_for_people() -> None:
    rows = [
        Row("training", "characters/s", at_least_times(1.4), 98_123.0, "PyTorch", 65_000.0, 1.51),
        Row("loss", "nats", at_most(1.56), 1.6),
        Row("start", "s", at_most(0.4), why="no model"),
    ]
    assert table.text(rows).splitlines() == [
        "what            ours     peer            ratio  bound",
        "training     98.1k/s  65.0k/s  PyTorch  1.51 x  at least 1.4 x      ok",
        "loss      1.600 nats                            at most 1.560 nats  short",
        "start              -                            at most 400 ms      short: no model",
    ]
    assert table.status(rows) == 1 and table.status(rows[:1]) == 0


def test_the_table_for_programs(tmp_path: Path) -> None:
    target = tmp_path / "found.json"
    table.write(target, [Row("loss", "nats", at_most(1.56), math.inf)], rounds=7, curve=[(1.0, math.nan)])
    found = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert found["rounds"] == 7 and found["curve"] == [[1.0, None]]
    (row,) = found["rows"]
    assert (row["what"], row["ours"], row["ok"]) == ("loss", None, False)
    assert row["bound"] == {"of": "ours", "limit": 1.56, "most": True}
    assert [path.name for path in tmp_path.iterdir()] == ["found.json"]


def test_each_round_begins_with_another_side() -> None:
    order: list[str] = []

    def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = table.in_turns({name: lambda name=name: side(name) for name in "abc"}, 3)
    assert "".join(order) == "abcbcacab"
    assert found == {"a": [1.0, 6.0, 8.0], "b": [2.0, 4.0, 9.0], "c": [3.0, 5.0, 7.0]}


def test_something_before_each_round() -> None:
    order: list[str] = []
    found = table.in_turns({"a": lambda: order.append("a")}, 2, before=lambda: order.append("before"))
    assert order == ["before", "a", "before", "a"]
    assert found == {"a": [None, None]}


def test_the_ratio_is_of_rounds_not_of_medians() -> None:
    ours, peer = [10.0, 20.0, 30.0], [10.0, 10.0, 30.0]  # a machine that gets faster
    assert table.median_ratio(ours, peer) == 1.0
    with pytest.raises(ValueError):
        table.median_ratio(ours, peer[:2])


def test_a_bench_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        bench.main(["speeed"])
    assert ended.value.code == 2
    assert "no bench is called speeed: there are cloud, control, data, trainer" in capsys.readouterr().err


def test_batches_are_cut_as_char_rnn_cuts_them(tmp_path: Path) -> None:
    import numpy as np

    from tests.bench.trainer.race import write_batches

    text = "".join(random.Random(1).choices("abcdef", k=2 * 3 * 4 + 2))
    assert write_batches(tmp_path / "b.npz", text, batch_size=2, seq_length=4) == len(set(text))
    with np.load(tmp_path / "b.npz") as file:
        inputs, targets = file["inputs"], file["targets"]
    assert inputs.shape == targets.shape == (3, 2, 4)
    letters = np.array(sorted(set(text)))
    streams = ["".join(letters[ids].ravel()) for ids in inputs.swapaxes(0, 1)]
    assert "".join(streams) == text[:24]
    assert "".join("".join(letters[ids].ravel()) for ids in targets.swapaxes(0, 1)) == text[1:25]


def test_a_side_that_fails_says_its_last_words() -> None:
    from tests.bench.trainer.place import Unavailable
    from tests.bench.trainer.race import Side
    from tests.bench.trainer.sides.lap import Task

    task = Task(8, 1, 2, 4, 6, 1, "/nowhere.npz")
    with pytest.raises(Unavailable, match=r"nobody ended: .*No module named tests\.bench\.trainer\.sides\.nobody"):
        Side("nobody", "nobody", task, Path(sys.executable)).__enter__()
