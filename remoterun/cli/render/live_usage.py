"""How much runs use of their machines: a table that is rewritten in place, lines, or JSON."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from remoterun.agent.shared.states import RunState
from remoterun.cli.render.data import finish, out, out_bytes
from remoterun.cli.render.table import Column, table
from remoterun.cli.render.terminal import lively
from remoterun.cli.render.words import size

if TYPE_CHECKING:
    from remoterun.client import RunUse

_HEADS = [
    Column("RUN", right=True),
    Column("STATE", drop=3),
    Column("CPU", right=True),
    Column("MEMORY", right=True),
    Column("GPU", right=True, drop=8),
    Column("GPU MEMORY", right=True, drop=7),
    Column("READ", right=True, drop=5),
    Column("WRITTEN", right=True, drop=6),
    Column("RECEIVED", right=True, drop=2),
    Column("SENT", right=True, drop=4),
    Column("COMMAND", least=10, drop=1),
]


class Board:
    """Shows how much runs use, as often as it is told: as a table in one place on a terminal, else as lines."""

    def __init__(self, as_json: bool, once: bool) -> None:
        self._as_json = as_json
        self._live = lively(sys.stdout) and not as_json and not once
        self._as_table = self._live or once
        self._lines = 0

    def __enter__(self) -> Self:
        if self._live:
            out_bytes(b"\x1b[?25l")  # without its cursor
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._live:
            out_bytes(b"\x1b[?25h")

    def show(self, uses: Sequence[RunUse]) -> None:
        if self._as_json:
            for use in uses:
                out(json.dumps(_record(use)))
        elif self._as_table:
            self._show_table(uses)
        else:
            now = datetime.datetime.now().strftime("%H:%M:%S")
            for use in uses:
                out(f"{now}  run {use.run.number}  {_line(use)}")
        finish()

    def _show_table(self, uses: Sequence[RunUse]) -> None:
        if self._live:
            out_bytes(b"\r\x1b[%dA\x1b[J" % self._lines if self._lines else b"\r")
            room = os.get_terminal_size(1).lines - 2 if os.isatty(1) else len(uses)
            uses = uses[-max(room, 1) :]
        rows = [_row(use) for use in uses]
        kept = [index for index, head in enumerate(_HEADS) if not head.drop or any(row[index] for row in rows)]
        table([_HEADS[index] for index in kept], [[row[index] for index in kept] for row in rows])
        self._lines = len(uses) + 1


def _row(use: RunUse) -> list[str]:
    sample, run = use.sample, use.run
    if sample is None:
        return [str(run.number), "not reached", *[""] * 8, run.command]
    state = "" if sample.state is RunState.RUNNING else sample.state.value
    return [
        str(run.number),
        state,
        _percent(sample.cpu),
        "" if sample.memory is None else size(sample.memory),
        _gpu_percent(use),
        _gpu_memory(use),
        _rate(sample.read),
        _rate(sample.written),
        _rate(sample.received),
        _rate(sample.sent),
        run.command,
    ]


def _line(use: RunUse) -> str:
    sample = use.sample
    if sample is None or sample.memory is None:
        return "not reached" if sample is None else sample.state.value
    parts = [f"CPU {_percent(sample.cpu) or '?'}", f"memory {size(sample.memory)}"]
    if sample.gpus:
        parts += [f"GPU {_gpu_percent(use)}", f"GPU memory {_gpu_memory(use)}"]
    for name, value in (
        ("read", sample.read),
        ("written", sample.written),
        ("received", sample.received),
        ("sent", sample.sent),
    ):
        if value is not None:
            parts.append(f"{name} {_rate(value)}")
    return "  ".join(parts)


def _record(use: RunUse) -> dict[str, Any]:
    sample = use.sample
    if sample is None:
        return {"number": use.run.number, "machine": use.run.host.name, "state": None}
    return {
        "number": use.run.number,
        "machine": use.run.host.name,
        "time": sample.t,
        "state": sample.state.value,
        "cpu_percent": sample.cpu,
        "memory": sample.memory,
        "gpus": [
            {
                "number": gpu.number,
                "name": gpu.name,
                "percent": gpu.percent,
                "memory": gpu.memory,
                "memory_total": gpu.total,
            }
            for gpu in sample.gpus
        ],
        "disk_read": sample.read,
        "disk_written": sample.written,
        "net_received": sample.received,
        "net_sent": sample.sent,
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _gpu_percent(use: RunUse) -> str:
    assert use.sample is not None
    known = [gpu.percent for gpu in use.sample.gpus if gpu.percent is not None]
    return _percent(sum(known)) if known else ""


def _gpu_memory(use: RunUse) -> str:
    assert use.sample is not None
    gpus = use.sample.gpus
    return size(sum(gpu.memory for gpu in gpus)) if gpus else ""


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{size(value)}/s" if value >= 1 else "0"
