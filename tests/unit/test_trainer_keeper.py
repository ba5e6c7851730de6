"""What is kept of a training: the best model where there is a validation text, else the newest."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import some_weights
from trainer import checkpoint, export
from trainer.checkpoint import Best
from trainer.keeper import Keeper
from trainer.schedule import Schedule
from trainer.settings import Settings

IDENTITY = {"rnn_size": 3, "text": "0f3a"}


def arrays(step: int) -> dict[str, Any]:
    """Of a model whose embedding says at which step it was."""
    weights = {f"weights/{name}": array for name, array in some_weights().items()}
    weights[f"weights/{export.EMBEDDING}"] = np.full((4, 3), step, np.float32)
    return {**weights, "largest_logits": np.array([2.0, 16.0], np.float32)}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def keeper(**settings: Any) -> Keeper:
    schedule = Schedule("decay", 0.002, 0.97, epoch=100, total=1000)
    return Keeper(Settings(rnn_size=3, **settings), IDENTITY, list("abc\n"), schedule, 1.0, "a cab")


def exported(folder: Path) -> int:
    weights, _ = export.read_model(folder / "models")
    return int(weights[export.EMBEDDING][0, 0])


def test_without_validation_the_newest_is_exported(here: Path) -> None:
    one = keeper()
    assert one.save(100, arrays(100)).startswith("Saved models (step 100, the newest), checkpoints/")
    one.save(200, arrays(200))
    one.close()
    assert exported(here) == 200
    settings = export.read_settings(here / "models")
    assert (settings["step"], settings["val_loss"], settings["val_bpc"]) == (200, None, None)
    assert settings["seed"] == "a cab", "the page of `open` begins with it"


def test_with_validation_the_best_is_exported_and_stays(here: Path) -> None:
    one = keeper()
    for step, loss, best in ((100, 2.0, True), (200, 1.5, True), (300, 1.6, False), (400, float("nan"), False)):
        assert one.validation(step, loss) is best
        said = one.save(step, arrays(step))
        assert f"(step {min(step, 200)}, the best)" in said
    one.close()
    assert exported(here) == 200
    settings = export.read_settings(here / "models")
    assert (settings["step"], settings["val_loss"]) == (200, 1.5)
    assert settings["val_bpc"] == pytest.approx(1.5 / np.log(2))
    found, _ = checkpoint.find([Path("checkpoints")], IDENTITY)
    assert found is not None and (found.step, found.validated, found.best) == (400, 400, Best(200, 1.5))


def test_the_best_is_brought_from_the_folder_of_resume(here: Path) -> None:
    one = keeper(save_checkpoints=Path("before"))
    one.validation(100, 1.0)
    one.save(100, arrays(100))
    one.validation(200, 2.0)
    one.save(200, arrays(200))
    other = keeper(resume="before")
    found, _ = checkpoint.find([Path("before")], IDENTITY)
    assert found is not None
    assert other.go_on(found) == []
    other.validation(300, 3.0)
    assert "(step 100, the best)" in other.save(300, arrays(300))
    other.close()
    assert exported(here) == 100


def test_a_best_that_is_gone_is_said_and_looked_for_anew(here: Path) -> None:
    one = keeper()
    one.validation(100, 1.0)
    one.save(100, arrays(100))
    checkpoint.path_of(Path("checkpoints"), 100, IDENTITY, "best").unlink()
    found, _ = checkpoint.find([Path("checkpoints")], IDENTITY)
    assert found is not None
    other = keeper()
    assert other.go_on(found) == ["the best checkpoint, of step 100, is gone: the best is looked for from here on"]
    assert other.validation(200, 9.0)


def test_what_ml5_cannot_use_says_so_in_its_settings(here: Path) -> None:
    one = keeper(num_layers=3, reverse=True)
    one.save(1, arrays(1))
    one.close()
    settings = export.read_settings(here / "models")
    assert (settings["ml5"], settings["reverse"], settings["num_layers"]) == (False, True, 3)
    assert "this model has 3" in settings["ml5_why_not"]


def test_a_training_that_was_stopped_before_it_saved_leaves_nothing(here: Path) -> None:
    keeper().close()
    assert os.listdir(here) == []
