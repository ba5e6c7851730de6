"""What runs report of themselves is read while they go on, whatever dies on the way."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path

import pytest

from remoterun.agent.shared import api
from remoterun.agent.shared.measured import POINT, Progress
from remoterun.agent.store.run_folder import RunFolder
from remoterun.cli.main import main
from remoterun.job import Job
from remoterun.model import RunRequest
from tests.measured import measurer
from tests.workshop import Place, User, kill9, until

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks into /proc")

COUNTS = """
import json, os, sys, time
with open("metrics.jsonl", "a", buffering=1) as file:
    for step in range(int(sys.argv[1])):
        file.write(json.dumps({"step": step, "loss": 10.0 / (1 + step), "accuracy": step / 100}) + "\\n")
        time.sleep(0.02)
        while step == 50 and not os.path.exists("go"):
            time.sleep(0.01)
"""


@pytest.fixture
def place(kept_place: Place) -> Place:
    return kept_place


def progress_of(place: Place, key: str) -> Progress:
    """Of the run's last event, or of now."""
    progress = place.run(key).status().progress
    return progress if progress is not None else Progress()


def points_of(run: RunFolder) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each point, by the name of its series."""
    with open(run.metrics_names) as file:
        names = [json.loads(line) for line in file]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    with open(run.metrics_points, "rb") as file:
        for series, step, _, value in POINT.iter_unpack(file.read()):
            found[names[int(series)]].append((step, value))
    return found


def expected(count: int) -> dict[str, list[tuple[float, float]]]:
    return {
        "loss": [(step, 10.0 / (1 + step)) for step in range(count)],
        "accuracy": [(step, step / 100) for step in range(count)],
    }


def test_a_run_that_is_over_at_once(place: Place) -> None:
    key = place.submit("""printf '{"step": 1, "loss": 2}\\n{"step": 2, "loss": 1}' >metrics.jsonl""")
    place.until_final(key)
    (loss,) = progress_of(place, key).series
    assert (loss.name, loss.points, loss.first, loss.last, loss.best, loss.best_step) == ("loss", 2, 2, 1, 1, 2)
    assert points_of(place.run(key)) == {"loss": [(1, 2), (2, 1)]}


def test_a_run_that_reports_nothing_has_no_such_process(place: Place) -> None:
    key = place.submit("echo hi")
    place.until_final(key)
    assert not os.path.exists(place.run(key).measuring_file)
    assert place.run(key).status().progress is None


def test_metrics_come_while_it_goes_on(place: Place) -> None:
    key = place.submit(f"python -c '{COUNTS}' 60", {})
    until(lambda: progress_of(place, key).step == 50)
    (place.folder / "runs" / key / "work" / "go").touch()
    place.until_final(key)
    assert points_of(place.run(key)) == expected(60)
    assert progress_of(place, key).step == 59


def test_more_than_can_be_read_holds_no_run(place: Place) -> None:
    """Points that were read in time count, the number of the others is reported, and the process has ended."""
    key = place.submit("""yes '{"loss": 1}' | head -c 100000000 >metrics.jsonl""")
    place.until_final(key)
    (loss,) = progress_of(place, key).series
    unread = 100_000_000 // len('{"loss": 1}\n') - loss.points
    assert unread > 0 and unread * 0.99 < progress_of(place, key).left_out < unread + loss.points
    assert loss.points > 10_000 and os.path.getsize(place.run(key).metrics_points) % POINT.size == 0
    assert measurer(key) is None


@pytest.mark.parametrize("victims", [("measure",), ("supervise",), ("measure", "supervise"), ("supervise", "measure")])
def test_nothing_is_lost_or_doubled_by_a_death(place: Place, victims: tuple[str, ...]) -> None:
    key = place.submit(f"python -c '{COUNTS}' 80")
    until(lambda: progress_of(place, key).step == 50)
    for victim in victims:
        kill9(measurer(key)) if victim == "measure" else place.lose_supervisor(key)
    (place.folder / "runs" / key / "work" / "go").touch()
    place.session.ask(api.runs, api.RunKeys([key]))  # this contact starts a supervisor
    assert place.until_final(key)["state"] == "complete"
    assert points_of(place.run(key)) == expected(80)
    assert progress_of(place, key).series[0].points == 80


def test_a_program_reads_them(user: User) -> None:
    command = """printf '{"step": 1, "loss": 2}\\n{"step": 2, "loss": NaN}\\n' >metrics.jsonl"""
    run = user.client.runs.submit(RunRequest(command), user.source({}))
    job = Job(user.client, run)
    assert job.wait(60) == 0
    (one, two) = job.metrics()["loss"]
    assert (one[0], one[2], two[0]) == (1, 2, 2) and math.isnan(two[2])
    assert job.progress is not None and job.progress.step == 2
    (series,) = job.progress.series
    assert (series.points, series.last, series.best) == (2, None, 2)
    curves = user.client.runs.metrics(run.number)
    for _ in range(2):
        curves.update()
        assert curves.names == ["loss"] and len(curves.metrics) == 2 * POINT.size
    assert user.client.connections.registry.run(run.number).progress == job.progress, "it stays with the run"


def test_the_command(user: User, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A table, of several runs side by side; curves, points and JSON; with --watch until the run has ended."""
    write = """printf '{"step": 1, "loss": %s, "a b,c": 1}\\n{"step": 2, "loss": 1}\\n' >metrics.jsonl"""
    for value in (4, 8):
        Job(user.client, user.client.runs.submit(RunRequest(write % value), user.source({}))).wait(60)
    going_on = write % 3 + "; while [ ! -e go ]; do sleep 0.05; done"
    run = user.client.runs.submit(RunRequest(going_on + " # --steps 9"), user.source({}))
    live = Job(user.client, run)
    until(lambda: live.progress)
    user.client.close()
    home = user.config.home
    (home / "config.toml").write_text(f'[machines.one]\nengine = "process"\nhome = "{user.place("one").folder}"\n')
    monkeypatch.setenv("REMOTERUN_HOME", str(home))

    def typed(*words: str, status: int = 0) -> list[str]:
        assert main(["metrics", *words]) == status
        return [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]

    assert typed("1") == [
        "SERIES LAST BEST AT STEP FIRST POINTS",
        "loss 1 1 2 4 2 █▁",
        "a b,c 1 – – 1 1 ▁",
        "run 1: step 2",
    ]
    assert typed("1", "2", "--name", "lo*")[:2] == ["SERIES RUN 1 RUN 2", "loss 1 (best 1 at 2) 1 (best 1 at 2)"]
    rows = list(csv.reader(typed("2", "--csv")))
    assert rows[0] == ["run", "series", "step", "time", "value"]
    assert [[*row[:3], row[4]] for row in rows[1:]] == [
        ["2", "loss", "1.0", "8.0"], ["2", "loss", "2.0", "1.0"], ["2", "a b,c", "1.0", "1.0"],
    ]  # fmt: skip
    (record,) = json.loads("".join(typed("3", "--json")))
    assert (record["number"], record["state"], record["total"]) == (3, "running", 9)
    assert record["progress"]["series"][0]["first"] == 3
    assert typed("2", "--plot", "--name", "loss")[0] == "loss, run 2"
    assert typed("last", "--csv", "--json", status=2) == []
    Path(user.place("one").run(run.key).work, "go").touch()
    assert typed("3", "--watch")[-1] == "run 3: step 2", "it shows the end"
