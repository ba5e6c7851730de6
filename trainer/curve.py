"""The loss curve, drawn from metrics.jsonl once a training is done. Needs matplotlib, which is imported on use."""

import io
import json
import logging
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from trainer.files import write_whole

KINDS = ("png", "svg")
TRAIN, SMOOTH, VALIDATION = "#c9d3e3", "#33588f", "#d9541e"
WINDOW = 0.04  # of the training, over which the thick line is a mean

Points = tuple[list[int], list[float]]


def draw(metrics: Path, folder: Path, title: str, unit: str) -> str:
    """Write loss.png and loss.svg to `folder`. Returns a line for the user. The same metrics give the same pictures.

    `unit`: what the loss is in nats of, a "character" or a "token".
    """
    try:
        from matplotlib import rc_context
    except ModuleNotFoundError:
        return "no loss curve: matplotlib is not installed; `pip install matplotlib`, then the same command draws it"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # a home that can't be written to does not matter here
    train, validation = _points(metrics, "train_loss"), _points(metrics, "val_loss")
    if not train[0]:
        return f"no loss curve: {metrics} is empty"
    style: dict[Any, Any] = {
        "font.size": 10.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#8a8f98",
        "svg.hashsalt": "trainer",
    }
    paths = [folder / f"loss.{kind}" for kind in KINDS]
    with rc_context(style):
        figure = _figure(train, validation, title, unit)
        for path, kind in zip(paths, KINDS, strict=True):
            undated = {"Date": None} if kind == "svg" else {}
            picture = io.BytesIO()
            figure.savefig(picture, format=kind, metadata=undated)
            write_whole(path, lambda file, picture=picture: file.write(picture.getvalue()))  # type: ignore[misc]
    return f"loss curve: {paths[0]} and {paths[1].name}"


def _figure(train: Points, validation: Points, title: str, unit: str) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(*train, color=TRAIN, linewidth=0.8)
    axes.plot(train[0], _smoothed(train[1]), color=SMOOTH, linewidth=1.8, label=f"training: {train[1][-1]:.3f}")
    if validation[0]:
        lowest = min(range(len(validation[1])), key=validation[1].__getitem__)
        label = f"validation: {validation[1][lowest]:.3f} at its best"
        axes.plot(*validation, color=VALIDATION, linewidth=1.8, marker="o", markersize=3.5, label=label)
        axes.plot(validation[0][lowest], validation[1][lowest], "o", color=VALIDATION, markersize=9, fillstyle="none")
    axes.set(xlabel="step", ylabel=f"loss, nats per {unit}")
    axes.set_xlim(left=0)
    axes.set_title(title, loc="left", fontsize=10.5, color="#444b56")
    axes.grid(axis="y", color="#e6e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure


def _points(metrics: Path, name: str) -> Points:
    """The (steps, values) of one name."""
    with open(metrics, encoding="utf-8") as file:
        records = [record for record in map(json.loads, file) if record["name"] == name]
    return [record["step"] for record in records], [record["value"] for record in records]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours."""
    reach = max(1, round(len(values) * WINDOW / 2))
    sums = list(accumulate(values, initial=0.0))
    spans = [(max(0, i - reach), min(len(values), i + reach + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]
