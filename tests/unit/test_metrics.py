"""The numbers that runs write of their training, and what is shown of them."""

from __future__ import annotations

import pytest

from remoterun.cli.render.run_views import _loss
from remoterun.client.comparing import LONGEST_LINE, parse_numbers


def test_numbers_by_their_names() -> None:
    """Our trainer writes a record for each number, others one for each step."""
    ours = b"""{"step": 1, "name": "train_loss", "value": 3.5, "time": 1e9}\n{"name": "train_loss", "value": 2}\n"""
    assert parse_numbers(ours) == {"train_loss": [3.5, 2.0]}
    assert parse_numbers(b'{"loss": 3, "note": "x"}\n{"loss": 1.5}\n{"loss"') == {"loss": [3.0, 1.5]}


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"3",
        b"null",
        b'"name"',
        b'{"name": []}',
        b'{"a": NaN}',
        b'{"a": 1' + b"0" * 400 + b"}",
        b"\xff",
        b"[" * 4000,
    ],
)
def test_a_line_that_makes_no_sense_is_left_out(line: bytes) -> None:
    assert parse_numbers(line + b'\n{"loss": 1}\n') == {"loss": [1.0]}


def test_a_line_is_bounded() -> None:
    """A line of `[],[],…` would take twenty times its bytes of memory."""
    assert parse_numbers(b'{"a": 1, "b": "' + b"x" * LONGEST_LINE + b'"}') == {}


def test_a_loss_at_a_glance() -> None:
    assert _loss([]) is None
    assert _loss([4.0]) == "▁ 4 → 4"
    assert _loss([8.0, 4.0, 2.0, 1.0]) == "█▄▂▁ 8 → 1"
    falling = _loss([1 / step for step in range(1, 5001)]) or ""
    assert falling.startswith("█") and falling.endswith("▁ 1 → 0.0002") and len(falling.split()[0]) == 16
