"""Trainings that share a log folder leave each other's logs whole, as they do with checkpoints.

    logs/training.json    the settings of the training that the files beside it are of; params.json: without its name
    logs/samples/         what the model writes at each checkpoint: step-000100.txt
    logs/1f0c9a3e/        the same files of another training, set aside when this one began

TensorBoard takes such a folder for a run of its own.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import digest_of
from trainer.files import write_whole

OWNER = "training.json"
FILES = (
    "metrics.jsonl",
    "events.out.tfevents.*.trainer",
    "loss.png",
    "loss.svg",
    "samples",
    "params.json",
    OWNER,
)  # the owner goes last


def take_over(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make `folder` the log of a training with `settings`: set another one's aside, bring its own back. Repeatable."""
    own, owner = digest_of(settings), _owner(folder)
    if owner == own:
        return
    if owner:
        _move(folder, folder / owner)
    if (folder / own).is_dir():
        _move(folder / own, folder)
    _write_json(folder / "params.json", settings)
    _write_json(folder / OWNER, {"training": own, **settings})


def write_sample(folder: Path, step: int, text: str) -> None:
    write_whole(folder / "samples" / f"step-{step:06d}.txt", lambda file: file.write(text.encode() + b"\n"))


def forget_samples(folder: Path, after: int) -> None:
    """Remove samples of steps that are yet to come: a training that began anew, or was killed, made them."""
    for path in (folder / "samples").glob("step-*.txt"):
        if path.stem[5:].isdecimal() and int(path.stem[5:]) > after:
            path.unlink(missing_ok=True)


def _write_json(path: Path, about: Mapping[str, Any]) -> None:
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def _owner(folder: Path) -> str | None:
    try:
        owner = json.loads((folder / OWNER).read_text("utf-8"))["training"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return owner if isinstance(owner, str) and owner.isalnum() else None


def _move(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for pattern in FILES:
        for path in sorted(source.glob(pattern)):
            os.replace(path, target / path.name)
    try:
        source.rmdir()
    except OSError:
        pass  # it holds something else
