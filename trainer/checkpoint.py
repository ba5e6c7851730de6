"""Checkpoints: everything a training needs to go on as if it had never stopped.

One file each, `checkpoints/step-00001000-1f0c9a3e.npz`: the weights, Adam's averages, the LSTM's state, the
step and the settings. The last eight digits are a digest of what makes one training another than the next
(the settings and the text), so trainings that share a folder leave each other's checkpoints alone. The file
is NumPy's format with a SHA-256 of it at the end: a damaged file is found out when it is read.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer import TrainerError
from trainer.files import write_whole

FORMAT = 1
CHECKSUM_SIZE = 32
KEEP = 2  # the newest, and the one before in case the newest is damaged

_NAME = re.compile(r"step-(\d+)-([0-9a-f]{8})\.npz")


@dataclass(frozen=True)
class Checkpoint:
    """`settings`: what the training was asked for. `arrays`: of the model, by name. `step`: steps done."""

    step: int
    settings: Mapping[str, Any]
    characters: list[str]
    arrays: Mapping[str, NDArray[Any]]


def path_of(folder: Path, step: int, settings: Mapping[str, Any]) -> Path:
    return folder / f"step-{step:08d}-{_digest(settings)}.npz"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whole, then remove this training's older ones but for the last before it.

    May be repeated. Later ones of the same settings go too: they are of a training that was started anew.
    """
    path = path_of(folder, checkpoint.step, checkpoint.settings)
    about = {
        "format": FORMAT,
        "step": checkpoint.step,
        "settings": dict(checkpoint.settings),
        "characters": checkpoint.characters,
    }
    arrays = {f"model/{name}": array for name, array in checkpoint.arrays.items()}
    arrays_file = io.BytesIO()
    np.savez(arrays_file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    content = arrays_file.getvalue()
    write_whole(path, lambda file: file.write(content + hashlib.sha256(content).digest()))

    same = [other for other in _checkpoints(folder) if _same_training(other, checkpoint.settings)]
    keep = [other for other in same if other.name <= path.name][:KEEP]
    for other in same:
        if other not in keep:
            other.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises TrainerError if it is damaged, of another format, or not there."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TrainerError(f"{path} cannot be read: {error.strerror}") from error
    arrays_file, checksum = content[:-CHECKSUM_SIZE], content[-CHECKSUM_SIZE:]
    if hashlib.sha256(arrays_file).digest() != checksum:
        raise TrainerError(f"{path} is damaged, or no checkpoint: its checksum does not match")
    with np.load(io.BytesIO(arrays_file), allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        if about["format"] != FORMAT:
            raise TrainerError(f"{path} has format {about['format']}, this trainer reads {FORMAT}")
        arrays = {name.removeprefix("model/"): file[name] for name in file.files if name != "about"}
    return Checkpoint(about["step"], about["settings"], about["characters"], arrays)


def find(folder: Path, settings: Mapping[str, Any]) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint of a training with `settings`, and what there is to say about the search."""
    remarks: list[str] = []
    there = _checkpoints(folder)
    for path in there:
        if _same_training(path, settings):
            try:
                return load(path), remarks
            except TrainerError as error:
                remarks.append(f"skipped: {error}")
    for path in there:
        if not _same_training(path, settings):
            remarks.append(f"starting anew: {path} is of another training{_difference(path, settings)}")
            break
    return None, remarks


def newest(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest readable one of a folder, of whatever training."""
    if not path.is_dir():
        return load(path)
    for candidate in sorted(_checkpoints(path), key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            return load(candidate)
        except TrainerError:
            continue
    raise TrainerError(f"{path} holds no checkpoint to start from")


def _checkpoints(folder: Path) -> list[Path]:
    """Those in `folder`, the one with the most steps first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _same_training(path: Path, settings: Mapping[str, Any]) -> bool:
    return path.name.endswith(f"-{_digest(settings)}.npz")


def _digest(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]


def _difference(path: Path, settings: Mapping[str, Any]) -> str:
    try:
        theirs = load(path).settings
    except TrainerError:
        return ""
    names = [name for name in settings if theirs.get(name) != settings[name]]
    shown = ["another text" if name == "text" else f"{name} {theirs.get(name)}, now {settings[name]}" for name in names]
    return f" ({'; '.join(shown)})"
