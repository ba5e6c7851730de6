"""Readers of metrics: files as real programs write them, in pieces, and what hostile runs leave."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from remoterun.agent.measuring import FORMATS, Point, lines, reader
from trainer.progress import Metrics


def read(function: Any, data: bytes, **state: Any) -> list[Point]:
    """All points of a file that grows no more."""
    points, consumed = function(data, {"ended": True, **state})
    assert consumed <= len(data)
    return points


def values(points: list[Point]) -> list[tuple[str, float | None, float]]:
    return [(point.name, point.step, point.value) for point in points]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("metrics.jsonl", "lines"),
        ("val_metrics.jsonl", "lines"),
        ("results.jsonl", "lines with steps"),
        ("metrics.txt", None),
    ],
)
def test_formats_by_name(file: str, name: str | None) -> None:
    found = next((format for format in FORMATS if format.matches(file)), None)
    assert (found and found.name) == name
    assert found is None or callable(reader(found))


class TestLines:
    def test_the_bundled_trainer(self, tmp_path: Path) -> None:
        Metrics(tmp_path / "metrics.jsonl", 0, 0).write(10, {"train_loss": 2.5, "epoch": 1})
        points = read(lines.read, (tmp_path / "metrics.jsonl").read_bytes())
        assert values(points) == [("train_loss", 10, 2.5), ("epoch", 10, 1)]
        assert points[0].time is not None and points[0].time > 1.7e9

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ('{"step": 10, "loss": 0.3}', [("loss", 10, 0.3)]),
            (
                '{"epoch": 1, "loss": 0.3, "val": {"loss": 1, "deep": {"no": 1}}}',
                [("loss", 1, 0.3), ("val/loss", 1, 1)],
            ),
            ('{"step": 4, "epoch": 1, "loss": 0.3}', [("epoch", 4, 1), ("loss", 4, 0.3)]),
            ('{"tag": "loss", "value": 2, "step": 3}', [("loss", 3, 2)]),
            ('{"loss": 0.3, "time": 12.5, "_runtime": 3, "best": true, "note": "x"}', [("loss", None, 0.3)]),
            ('{"step": "3", "loss": Infinity}', [("loss", None, math.inf)]),
            ('{"step": NaN, "epoch": 2, "loss": 1}', [("epoch", 2, 2), ("loss", 2, 1)]),
            ('[{"loss": 1}]', []),
            ("loss", []),
            ("[" * 60000, []),
            ('{"step": %s, "loss": 1}' % ("9" * 5000), [("loss", None, 1)]),
            ('{"\\ud800": 1}', [("\ud800", None, 1)]),
        ],
    )
    def test_a_line(self, line: str, expected: list[Any]) -> None:
        assert values(read(lines.read, line.encode())) == expected

    def test_a_nan_is_reported(self) -> None:
        assert math.isnan(read(lines.read, b'{"loss": NaN, "step": 1}')[0].value)

    def test_what_tells_no_step_is_no_metric_in_files_of_other_names(self) -> None:
        data = b'{"id": 3, "label": 1}\n{"step": 1, "loss": 2}\n'
        assert values(read(lines.read_steps, data)) == [("loss", 1, 2)]

    def test_a_line_that_is_too_long_is_skipped_as_it_comes(self) -> None:
        long = json.dumps({"step": 1, **{f"n{i}": i for i in range(20000)}}).encode()
        state: dict[str, Any] = {}
        points, consumed = lines.read(long[:100_000], state)
        assert (points, consumed) == ([], 100_000)
        rest = long[100_000:] + b'\n{"step": 2, "loss": 1}\n'
        assert values(lines.read(rest, state)[0]) == [("loss", 2, 1)]
        assert values(read(lines.read, long + b'\n{"step": 2, "loss": 1}\n')) == [("loss", 2, 1)]
