"""What a client makes of the metrics of runs."""

from __future__ import annotations

import time

import pytest

from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.measured import MOST_POINTS, POINT, SHOWN, SPARK, Progress, Series
from remoterun.agent.shared.states import RunState
from remoterun.cli.render import metric_views
from remoterun.cli.render.run_views import _loss
from remoterun.client.data.metrics import Outlook, outlook, parameters
from remoterun.host_store import _check_bounds
from remoterun.model import MachineType, Run, by_our_clock
from remoterun.model.rented import HostUse, Renting
from remoterun.ui.rows import about

NOW = 1_000_000.0
RUN = Run(1, "k", RunState.RUNNING, MachineType("box"), "true", NOW - 100, started=NOW - 100)


def reporting(**progress: float) -> Run:
    return RUN._replace(progress=Progress(at=NOW)._replace(**progress))


def series(*spark: float, name: str = "loss") -> Run:
    return RUN._replace(progress=Progress(series=[Series(name, 1, spark[0], spark[-1], spark=list(spark))]))


def test_a_loss_at_a_glance() -> None:
    assert _loss(RUN) is None and _loss(series(1.0, name="speed")) is None
    assert _loss(series(4.0)) == "▁ 4 → 4"
    assert _loss(series(8.0, 4.0, 2.0, 1.0, name="train/loss")) == "█▄▂▁ 8 → 1"
    falling = _loss(series(*(1 / step for step in range(1, 5001)))) or ""
    assert falling.startswith("█") and falling.endswith("▁ 1 → 0.0002") and len(falling.split()[0]) == 16


def test_what_is_to_come() -> None:
    assert outlook(reporting(step=100.0, total=400.0, rate=2.0), NOW + 50) == Outlook(100.0, total=400.0)
    assert outlook(RUN, NOW) == outlook(reporting(step=100.0), NOW) == Outlook()
    ended = reporting(step=1.0, total=4.0, rate=1.0)._replace(state=RunState.COMPLETE)
    for run in (ended, reporting(step=1.0, total=4.0), reporting(step=1.0, total=4.0, rate=-1.0)):
        assert outlook(run, NOW) == Outlook(total=4.0)
    far = reporting(step=1.0, total=1e17, rate=1e-9)
    assert outlook(far, NOW) == Outlook(total=1e17), "nothing is foretold for centuries"


def test_how_many_steps_it_takes_by_its_command() -> None:
    run = reporting(step=100.0, rate=2.0)._replace(command="train --max_steps 400 --save-steps 5")
    assert outlook(run, NOW) == Outlook(150.0, total=400.0)
    for words in ("--steps 99", "--steps x", "--steps", "--save_steps 400", "--steps 1e400"):
        assert outlook(run._replace(command=f"train {words}"), NOW) == Outlook(), words


def test_its_time_will_be_up() -> None:
    run = reporting(step=100.0, total=400.0, rate=2.0)
    assert outlook(run, NOW, {"timeout": 200.0}) == Outlook(100.0, None, 300.0, 400.0)
    assert outlook(run, NOW, {"timeout": 9000.0, "until": None}).cut_at is None
    assert about(run, {"spec": {"timeout": 200.0}, "events": None}, b"")["cut_at"] == 300.0, "the page says so, too"
    host = HostUse("t", "i", "g4dn.xlarge", "z", 3.6, NOW - 1000)
    rented = run._replace(renting=Renting(NOW + 50, hosts=(host,)))
    assert outlook(rented, NOW) == Outlook(50.0, 50.0 / 3600 * 3.6, 200.0, 400.0)


def test_parameters_of_a_run() -> None:
    command = "SEED=3 python train.py --lr 0.1 --data=./x --fast --shift -0.5 -v size=4 'quoted one'"
    assert parameters(command) == {
        "SEED": "3", "lr": "0.1", "data": "./x", "fast": "true", "shift": "-0.5", "size": "4",
    }  # fmt: skip
    told = Progress(params={"lr": "0.3", "layers": "2"})
    assert parameters("x --lr 1", {"lr": "2", "b": "3"}, told) == {"lr": "0.3", "b": "3", "layers": "2"}
    assert parameters("x 'unfinished --lr 1") == {"lr": "1"}


def test_what_a_host_reports_of_progress_is_bounded() -> None:
    many = Progress(
        at=5.0,
        series=[Series("n" * 10_000, spark=[1.0] * 10_000)] * 1000,
        params={f"{number}": "v" * 10_000 for number in range(10_000)},
        alerts=["a" * 10_000] * 1000,
        left_out=-5,
    )
    found = by_our_clock(RunStatus("k", RunState.RUNNING, progress=many), 2.0).progress
    assert found is not None and found.at == 3.0 and found.left_out == 0
    assert len(found.series) == SHOWN and len(found.series[0].name) == 200 and len(found.series[0].spark) == SPARK
    assert len(found.params) == 50 and len(found.params["0"]) == 200
    assert len(found.alerts) == 20 and len(found.alerts[0]) == 200
    with pytest.raises(ValueError, match="not a time"):
        by_our_clock(RunStatus("k", RunState.RUNNING, progress=Progress(at=-1.0)))


def test_a_curve_in_a_terminal() -> None:
    points = [(float(step), time.time(), float(value)) for step, value in enumerate((3, 2, 1))]
    rows = metric_views._drawn(points)
    assert rows[0].split()[0] == "3" and rows[7].split()[0] == "1" and "step 0" in rows[8]
    assert rows[0].split()[1][0] == "⠁" and rows[7].rstrip()[-1] == "⢀"
    wild = [(0.0, 0.0, float("nan")), (float("inf"), 0.0, 1.0), (1e308, 0.0, -1e308)]
    assert metric_views._drawn(wild) == []
    assert len(metric_views._drawn([*wild, (1.0, 0.0, 1.0)])) == 9


@pytest.mark.parametrize(
    ("names", "ends"),
    [
        (["n"] * 991, {}),
        (["n" * 201], {}),
        ([], {"metrics": 31}),
        ([], {"metrics": (MOST_POINTS + 1) * POINT.size}),
        ([], {"usage": 100_001 * POINT.size}),
    ],
)
def test_points_that_no_host_has(names: list[str], ends: dict[str, int]) -> None:
    fine = {"metrics": MOST_POINTS * POINT.size, "usage": 0}
    _check_bounds(10, ["n"] * 990, **fine)
    with pytest.raises(ValueError, match="too many|more points"):
        _check_bounds(10, names, **fine | ends)
