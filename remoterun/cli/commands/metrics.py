"""The metrics of runs: `metrics`."""

from __future__ import annotations

import fnmatch
from typing import Annotated

from remoterun.agent.shared.measured import LogReading
from remoterun.cli import render
from remoterun.cli.app import Command, Json, RunNumbers, Wait, app, example, option, run_numbers
from remoterun.cli.asking import client as connect
from remoterun.cli.render import metric_views, run_views
from remoterun.client import json_shapes
from remoterun.errors import UsageError
from remoterun.parsing import parse_duration

EXAMPLES = """
remoterun metrics 3 4
remoterun metrics last --plot --name '*loss'
remoterun metrics 3 --again --metric-hide port
"""


@app.command(cls=Command, epilog=example(EXAMPLES.strip()))
def metrics(
    runs: RunNumbers,
    watch: Annotated[bool, option("-w --watch", "Show them every 2 s, until the runs end.")] = False,
    plot: Annotated[bool, option("--plot", "Draw curves.")] = False,
    csv: Annotated[bool, option("--csv", "All points: run,series,step,time,value.")] = False,
    name: Annotated[str, option("--name PATTERN", "Only such metrics: val_loss, '*loss'.")] = "*",
    again: Annotated[bool, option("--again", "Read the log once more, as the next three say.")] = False,
    metric: Annotated[list[str], option("--metric REGEX", "Each named group of a match is a metric.")] = [],  # noqa: B006
    metric_step: Annotated[str, option("--metric-step NAME", "The number of a line that is its step.")] = "",
    metric_hide: Annotated[list[str], option("--metric-hide NAME", "What is no metric.")] = [],  # noqa: B006
    wait: Wait = "2s",
    json: Json = False,
) -> None:
    """Show the metrics of runs, and how long these will take.

    They are read on the machine from what the command writes: TensorBoard's files, JSON lines, CSV,
    trainer_state.json, wandb's files, its log. The table has those that count most; --csv has all.
    What was read from the log is a guess, which --again corrects; a rerun keeps that.
    """
    if csv + json + plot > 1 or (watch and (csv or json)):
        raise UsageError(
            "of --csv, --json, --plot only one, and --watch with none but --plot", hint="remoterun metrics last --csv"
        )
    seconds = parse_duration(wait)

    def wanted(series: str) -> bool:
        return fnmatch.fnmatchcase(series, name)

    reading = LogReading(tuple(metric), metric_step, tuple(metric_hide))
    with connect() as client:
        numbers = run_numbers(client, runs)
        for number in numbers if again or reading != LogReading() else ():
            client.runs.read_again(number, reading if reading != LogReading() else None)
        curves = [client.runs.metrics(number) for number in numbers] if plot or csv else []
        for begin in render.pages():
            found = [client.runs.info(number, seconds) for number in numbers]
            for each in curves:
                each.update()
            seen, specs = [run for run, _ in found], [details["spec"] for _, details in found]
            if watch:
                begin()
            run_views.not_reached(seen)
            if json:
                render.out_json([json_shapes.metrics(run, spec) for run, spec in zip(seen, specs, strict=True)])
            elif csv:
                metric_views.points(curves, wanted)
            else:
                metric_views.plots(curves, wanted) if plot else metric_views.series(seen, wanted)
                metric_views.outlooks(seen, specs)
            if not watch or all(run.final for run in seen):
                return
