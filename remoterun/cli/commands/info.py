"""`info`: all that is known of a run, and its labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from remoterun.cli import complete, render
from remoterun.cli.app import Command, Json, Wait, app, argument, example, run_number, run_numbers
from remoterun.cli.asking import client as connect
from remoterun.cli.render import run_views
from remoterun.client import json_shapes
from remoterun.errors import UsageError
from remoterun.model import LAST
from remoterun.parsing import parse_duration

LABELS = "remoterun labels"


class Labels(Command):
    """Takes `+LABEL` and `-LABEL` from among the words, into `context.meta`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        labels = [word for word in args if re.match(r"\+|-(?!-|h\Z)", word)]
        ctx.meta[LABELS] = labels
        return super().parse_args(ctx, [word for word in args if word not in labels])


@app.command(cls=Labels, epilog=example("remoterun info last\nremoterun info 3 +good -bad"))
def info(
    context: typer.Context,
    runs: Annotated[
        list[str],
        argument(
            "[RUN]… [+LABEL]… [-LABEL]…",
            "A run's number, or `last`. A label to add to it begins with +, one to remove with -; then also 3-9.",
            complete.run_numbers,
        ),
    ] = [],  # noqa: B006
    wait: Wait = "2s",
    json: Json = False,
) -> None:
    """Show all that is known of a run; add labels to runs."""
    seconds = parse_duration(wait)
    if context.meta[LABELS]:
        _change_labels(runs, context.meta[LABELS])
        return
    if len(runs) > 1:
        raise UsageError("`info` shows one run", hint=f"remoterun diff {runs[0]} {runs[1]}   shows what differs")
    with connect() as client:
        known, details = client.runs.info(run_number(runs[0] if runs else LAST), seconds)
    run_views.not_reached([known])
    if json:
        render.out_json(json_shapes.run_info(known, details))
    else:
        run_views.run_info(known, details)


def _change_labels(runs: Sequence[str], labels: Sequence[str]) -> None:
    if not runs:
        typed = " ".join(map(render.word, labels))
        raise UsageError("no run is named", hint=f"remoterun info last {typed}")
    if "+" in labels or "-" in labels:
        raise UsageError("a label has no name", hint="remoterun info 3 +good -bad")
    add = tuple(word[1:] for word in labels if word[0] == "+")
    remove = tuple(word[1:] for word in labels if word[0] == "-")
    with connect() as client:
        for number in run_numbers(client, runs):
            run = client.runs.label(number, add, remove)
            shown = ", ".join(render.name(each) for each in run.labels) or "no label"
            render.out(f"run {number}: {shown}")
