"""`label`: the labels of runs, seen and changed."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from remoterun.cli import render, selection
from remoterun.cli.app import app, example
from remoterun.cli.connect import client as connect
from remoterun.cli.help import Command
from remoterun.errors import NotFound, UsageError
from remoterun.model import Resource


class Labels(Command):
    """Takes `-h` as the first word for `--help`; after a run, what begins with `-` is a label: `-h`, `-hot`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--help"] if args[:1] == ["-h"] else args)


@app.command(
    cls=Labels,
    epilog=example("remoterun label 3 +good -bad\nremoterun label runs/3-9 +night"),
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},  # `-bad` is a label
)
def label(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN… [+LABEL]… [-LABEL]…",
            help="Runs: 3, last, 3-9; a label to add begins with +, one to take away with -.",
        ),
    ],
) -> None:
    """Add labels to runs, and take some away. Without any, show them."""
    runs, changes = _parted(words)
    with connect() as client:
        numbers: dict[int, None] = {}
        for text in runs:
            fits = selection.run_range(text)
            if fits is None:
                resource = _resource(text)
                if resource.kind != "runs" or resource.sub:
                    raise UsageError(f"{resource} has no labels: runs have", hint="remoterun label 3 +good")
                numbers[client.registry.run(resource.name).number] = None
                continue
            among = [run.number for run in client.registry.runs() if fits(run.number)]
            if not among:
                raise NotFound(f"there is no run among {text}", hint="remoterun ps -a")
            numbers.update(dict.fromkeys(among))
        add, remove = changes
        for number in numbers:
            run = client.runs.label(number, add, remove)
            shown = ", ".join(render.name(each) for each in run.labels) or "no label"
            render.out(f"run {number}: {shown}")


def _resource(text: str) -> Resource:
    try:
        return selection.resource(text)
    except UsageError:
        if "/" in text:
            raise
        hint = f"a label to add begins with +: `remoterun label last {render.word('+' + text)}`"
        raise UsageError(f"`{render.name(text)}` is not a run", hint=hint) from None


def _parted(words: list[str]) -> tuple[list[str], Any]:
    """(the runs, (labels to add, labels to take away))."""
    runs = [word for word in words if word[:1] not in ("+", "-")]
    for word in words:
        if word in ("+", "-"):
            raise UsageError(f"`{word}` names no label", hint="remoterun label 3 +good -bad")
    if not runs:
        raise UsageError("no run is named", hint=f"remoterun label last {' '.join(map(render.word, words))}")
    add = tuple(word[1:] for word in words if word[0] == "+")
    return runs, (add, tuple(word[1:] for word in words if word[0] == "-"))
