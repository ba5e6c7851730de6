"""Checkpoints: everything a training needs to go on as if it had never stopped.

    checkpoints/step-00001000-1f0c9a3e.npz    the two newest
    checkpoints/best-00000800-1f0c9a3e.npz    the one with the lowest loss on the validation text

One file each: the weights, Adam's averages, the layers' state, the step, the best loss so far and the settings. The
position in the text and the random numbers of dropout follow from the step and the settings. The last eight digits are
a digest of what makes one training another than the next (the settings and the text), so trainings that share a folder
leave each other's checkpoints alone. The file is NumPy's format with a SHA-256 of it at the end: a damaged file is
found out when it is read.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trainer import TrainerError
from trainer.files import write_whole

FORMAT = 2
CHECKSUM_SIZE = 32
PIECE = 1 << 20
KEEP = 2  # the newest, and the one before in case the newest is damaged

_NAME = re.compile(r"(?P<kind>step|best)-(?P<step>\d+)-(?P<digest>[0-9a-f]{8})\.npz")


@dataclass(frozen=True)
class Best:
    """The lowest loss on the validation text so far, in nats a token, and the step it was found at."""

    step: int
    val_loss: float


@dataclass(frozen=True)
class Checkpoint:
    """`step`, of `total`: steps done. `settings`: what the training was asked for. `vocabulary`: a token's place is its
    id. `arrays`: of the model, by name. `validated`: the last step at which the validation text was tried."""

    step: int
    total: int
    settings: Mapping[str, Any]
    vocabulary: list[str]
    arrays: Mapping[str, NDArray[Any]]
    validated: int = 0
    best: Best | None = None

    @property
    def weights(self) -> dict[str, NDArray[Any]]:
        return weights_of(self.arrays)


def weights_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The network's, of the arrays of a checkpoint."""
    return {name[8:]: array for name, array in arrays.items() if name.startswith("weights/")}


def digest_of(settings: Mapping[str, Any]) -> str:
    """Eight digits that differ where the settings or the text of a training differ."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]


def path_of(folder: Path, step: int, settings: Mapping[str, Any], kind: str = "step") -> Path:
    return folder / f"{kind}-{step:08d}-{digest_of(settings)}.npz"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint whole; as the best one too, if it is. Then remove those of this training that it replaces:
    all but the last before it, bests that are no longer, and later ones, which are of a training started anew.

    May be repeated.
    """
    path = path_of(folder, checkpoint.step, checkpoint.settings)
    kept = {path}
    if checkpoint.best:
        kept.add(path_of(folder, checkpoint.best.step, checkpoint.settings, "best"))
        if checkpoint.best.step == checkpoint.step:
            save_best(folder, checkpoint)
    write_whole(path, lambda file: _write(file, checkpoint))

    same = [other for other in _checkpoints([folder]) if _same_training(other, checkpoint.settings)]
    earlier = [other for other in same if _step(other) < checkpoint.step and _kind(other) == "step"]
    kept.update(earlier[: KEEP - 1])
    for other in same:
        if other not in kept:
            other.unlink(missing_ok=True)
    for unfinished in folder.glob(f".*-{digest_of(checkpoint.settings)}.npz.tmp"):
        unfinished.unlink(missing_ok=True)
    return path


def save_best(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint under the name of a best one, whole. May be repeated."""
    path = path_of(folder, checkpoint.step, checkpoint.settings, "best")
    write_whole(path, lambda file: _write(file, checkpoint))


def load(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises TrainerError if it is damaged, of another format, or not there."""
    try:
        with open(path, "rb") as file:
            if not _is_whole(file, path.stat().st_size - CHECKSUM_SIZE):
                raise TrainerError(f"{path} is damaged, or no checkpoint: its checksum does not match")
            with np.load(file, allow_pickle=False) as saved:
                about = json.loads(str(saved["about"]))
                if about.pop("format") != FORMAT:
                    raise TrainerError(f"{path} was written by another version of the trainer; this one cannot read it")
                arrays = {name.removeprefix("model/"): saved[name] for name in saved.files if name != "about"}
    except OSError as error:
        raise TrainerError(f"{path} cannot be read: {error.strerror}") from error
    best = about.pop("best")
    return Checkpoint(**about, arrays=arrays, best=Best(**best) if best else None)


def find(folders: Iterable[Path], settings: Mapping[str, Any]) -> tuple[Checkpoint | None, list[str]]:
    """The newest readable checkpoint of a training with `settings`, and what there is to say about the search."""
    remarks: list[str] = []
    there = [path for path in _checkpoints(folders) if _kind(path) == "step"]
    for path in there:
        if _same_training(path, settings):
            try:
                found = load(path)
            except TrainerError as error:
                remarks.append(f"skipped: {error}")
            else:
                return found, [*remarks, f"resuming at step {found.step} from {path}"]
    others = [path for path in there if not _same_training(path, settings)]
    if others:
        remarks.append(f"{others[0]} is of another training{_difference(others[0], settings)}")
    return None, remarks


def find_best(folders: Iterable[Path], checkpoint: Checkpoint) -> Checkpoint | None:
    """The best checkpoint that `checkpoint` knows of, if it is still there and readable."""
    if checkpoint.best is None:
        return None
    for folder in folders:
        try:
            return load(path_of(folder, checkpoint.best.step, checkpoint.settings, "best"))
        except TrainerError:
            continue
    return None


def newest(path: Path) -> Checkpoint:
    """The checkpoint at `path`, or the newest readable one of a folder, of whatever training."""
    if not path.is_dir():
        return load(path)
    there = [candidate for candidate in _checkpoints([path]) if _kind(candidate) == "step"]
    for candidate in sorted(there, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        try:
            return load(candidate)
        except TrainerError:
            continue
    raise TrainerError(f"{path} holds no checkpoint to start from")


def _write(file: BinaryIO, checkpoint: Checkpoint) -> None:
    about = {
        "format": FORMAT,
        "step": checkpoint.step,
        "total": checkpoint.total,
        "settings": dict(checkpoint.settings),
        "vocabulary": checkpoint.vocabulary,
        "validated": checkpoint.validated,
        "best": checkpoint.best and asdict(checkpoint.best),
    }
    arrays = {f"model/{name}": array for name, array in checkpoint.arrays.items()}
    np.savez(file, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    file.seek(0)
    file.write(_sha256(file))


def _is_whole(file: BinaryIO, size: int) -> bool:
    """Whether the checksum that follows the first `size` bytes is theirs. Leaves the file at its start."""
    if size < 0:
        return False
    checksum = _sha256(file, size)
    whole = file.read() == checksum
    file.seek(0)
    return whole


def _sha256(file: BinaryIO, size: int = -1) -> bytes:
    """The SHA-256 of the next `size` bytes, or of the rest of the file."""
    digest = hashlib.sha256()
    while size and (piece := file.read(min(PIECE, size) if size > 0 else PIECE)):
        digest.update(piece)
        size -= len(piece) if size > 0 else 0
    return digest.digest()


def _checkpoints(folders: Iterable[Path]) -> list[Path]:
    """Those in `folders`, the one with the most steps first."""
    there = [path for folder in folders if folder.is_dir() for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(there, key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(_part(path, "step"))


def _kind(path: Path) -> str:
    return _part(path, "kind")


def _part(path: Path, name: str) -> str:
    match = _NAME.fullmatch(path.name)
    assert match
    return match[name]


def _same_training(path: Path, settings: Mapping[str, Any]) -> bool:
    return _part(path, "digest") == digest_of(settings)


def _difference(path: Path, settings: Mapping[str, Any]) -> str:
    try:
        theirs = load(path).settings
    except TrainerError:
        return ""
    names = [name for name in settings if theirs.get(name) != settings[name]]
    shown = ["another text" if name == "text" else f"{name} {theirs.get(name)}, now {settings[name]}" for name in names]
    return f" ({'; '.join(shown)})"
