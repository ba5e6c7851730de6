"""What is kept of a training: its checkpoints, and the model in ml5's format."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from trainer import checkpoint, export, ml5
from trainer.checkpoint import Best, Checkpoint
from trainer.progress import bits
from trainer.schedule import Schedule
from trainer.settings import Settings

SETTINGS_FORMAT = 1


class Keeper:
    """Knows the best loss on the validation text so far, and which model is exported: the best, else the newest."""

    def __init__(
        self, settings: Settings, identity: Mapping[str, Any], vocabulary: list[str], schedule: Schedule,
        characters_a_validation_token: float, seed: str = "",
    ) -> None:  # fmt: skip
        """`seed`: what the page of `open` suggests to begin with."""
        self._settings, self._identity, self._vocabulary, self._schedule = settings, identity, vocabulary, schedule
        self._characters_a_token, self._seed = characters_a_validation_token, seed
        self._models = export.ModelFolder(settings.save_model)
        self._exported: int | None = None  # the step of the model that is exported, as far as this process knows
        self.validated = 0
        self.best: Best | None = None

    def go_on(self, found: Checkpoint) -> list[str]:
        """Go on from the checkpoint `found`. Returns lines for the user. The best may be in the folder of --resume."""
        self.validated, self.best = found.validated, found.best
        if found.best is None:
            return []
        best = checkpoint.find_best(self._settings.resume_folders, found)
        if best is None:
            self.best = None
            return [f"the best checkpoint, of step {found.best.step}, is gone: the best is looked for from here on"]
        if not checkpoint.path_of(self._folder, best.step, self._identity, "best").exists():
            checkpoint.save_best(self._folder, best)
        return []

    def validation(self, step: int, loss: float) -> bool:
        """Note a loss on the validation text. Returns whether it is the best so far."""
        self.validated = step
        better = math.isfinite(loss) and (self.best is None or loss < self.best.val_loss)
        if better:
            self.best = Best(step, loss)
        return better

    def secure(self, step: int, arrays: Mapping[str, NDArray[Any]]) -> tuple[Checkpoint, Path]:
        """Save a checkpoint of the model's `arrays` without exporting it."""
        current = Checkpoint(
            step, self._schedule.total, self._identity, self._vocabulary, arrays, self.validated, self.best
        )
        return current, checkpoint.save(self._folder, current)

    def save(self, step: int, arrays: Mapping[str, NDArray[Any]]) -> str:
        """Save a checkpoint and export the model. Returns a line that says what was done. May be repeated."""
        current, path = self.secure(step, arrays)
        return f"Saved {self._settings.save_model} ({self._export(current)}), {path}"

    def tick(self) -> None:
        """Call it often: the last step of an export is made a second after the others."""
        self._models.tick()

    def close(self) -> None:
        self._models.close()

    @property
    def _folder(self) -> Path:
        return self._settings.save_checkpoints

    def _export(self, current: Checkpoint) -> str:
        """Export the best model, or the newest if there is no best; returns which. The same step is exported once."""
        wanted = self.best.step if self.best else current.step
        if wanted != self._exported:
            chosen = current if wanted == current.step else checkpoint.find_best([self._folder], current) or current
            self._stage(chosen)
            self._exported = chosen.step
        return f"step {self._exported}, {'the best' if self.best and self._exported == wanted else 'the newest'}"

    def _stage(self, chosen: Checkpoint) -> None:
        smallest, largest = chosen.arrays["largest_logits"].tolist()
        best = chosen.best if chosen.best and chosen.best.step == chosen.step else None
        why_not = ml5.why_not(
            self._settings.model, self._settings.num_layers, self._settings.level, len(self._vocabulary)
        )
        self._models.stage(
            chosen.weights,
            self._vocabulary,
            learning_rate=self._schedule.rate(max(1, chosen.step)),
            largest_logits=(smallest, largest),
            settings={
                "format": SETTINGS_FORMAT,
                "model": self._settings.model,
                "level": self._settings.level,
                "reverse": self._settings.reverse,
                "rnn_size": self._settings.rnn_size,
                "num_layers": self._settings.num_layers,
                "vocabulary": len(self._vocabulary),
                "step": chosen.step,
                "val_loss": best and best.val_loss,
                "val_bpc": best and bits(best.val_loss, self._characters_a_token),
                "seed": self._seed,
                "ml5": why_not is None,
                "ml5_why_not": why_not,
            },
        )
