"""The model in ml5's format: what ml5.js asks for, one model at any moment, and what ml5.js can't use."""

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import probabilities, some_weights, write
from tests.recorder import Recorded
from trainer import TrainerError, export, ml5
from trainer.files import write_whole

TEXT = "abc\ncab"


def test_a_model_has_the_files_ml5_asks_for(tmp_path: Path, recorded: Recorded) -> None:
    write(tmp_path, some_weights(), step=300, level="char")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    files = [entry["filename"] for entry in manifest.values()]
    assert sorted(os.listdir(tmp_path)) == sorted(["manifest.json", "settings.json", "vocab.json", *files])
    assert len({name[: len("step-00000300-12345678-")] for name in files}) == 1
    assert files[0].startswith("step-00000300-")
    recorded.same("\n".join(f"{name} {entry['shape']}" for name, entry in sorted(manifest.items())), "shapes")
    for name in ("vocab.json", "settings.json"):
        recorded.same((tmp_path / name).read_text(), name)
    variable = (tmp_path / manifest["Variable"]["filename"]).read_bytes()
    assert np.frombuffer(variable, "<f4").tolist() == [np.float32(0.002)]


def test_a_model_comes_back_with_its_logits_moved_to_the_middle(tmp_path: Path) -> None:
    written = some_weights()
    write(tmp_path, written)
    weights, characters = export.read_model(tmp_path)
    assert characters == ["a", "b", "c", "\n"]
    np.testing.assert_allclose(weights.pop(export.SOFTMAX_B), written.pop(export.SOFTMAX_B) - 9)
    assert all(np.array_equal(weights[name], written[name]) for name in written)


@pytest.mark.parametrize("cell", export.CELLS)
@pytest.mark.parametrize("layers", [2, 3])
def test_every_network_comes_back(tmp_path: Path, cell: str, layers: int) -> None:
    written = some_weights(cell=cell, layers=layers)
    write(tmp_path, written)
    weights, _ = export.read_model(tmp_path)
    assert (export.cell_of(weights), export.count_layers(weights)) == (cell, layers)
    np.testing.assert_allclose(probabilities(weights, [0, 3, 1]), probabilities(written, [0, 3, 1]), atol=1e-6)


def test_a_smaller_model_replaces_a_deeper_one_file_for_file(tmp_path: Path) -> None:
    write(tmp_path, some_weights(layers=3))
    write(tmp_path, some_weights(layers=2))
    assert not [name for name in os.listdir(tmp_path) if "cell_2" in name]


def test_the_model_before_stays_for_those_who_still_read_it(tmp_path: Path) -> None:
    models = export.ModelFolder(tmp_path)
    left = []
    for step in (100, 200, 300):
        weights = {name: array + np.float32(step) for name, array in some_weights().items()}
        models.stage(weights, list("abc\n"), learning_rate=0.1, largest_logits=(0, 0), settings={"step": step})
        models.publish()
        left.append(steps_in(tmp_path))
    assert left == [{100}, {100, 200}, {200, 300}]
    models.close()
    assert steps_in(tmp_path) == {300}


def steps_in(folder: Path) -> set[int]:
    return {int(name.split("-")[1]) for name in os.listdir(folder) if name.startswith("step-")}


def test_the_manifest_names_a_model_a_moment_after_its_files_are_there(tmp_path: Path) -> None:
    now = [1000.0]
    models = export.ModelFolder(tmp_path, clock=lambda: now[0])
    models.stage(some_weights(), list("abc\n"), learning_rate=0.1, largest_logits=(0, 0), settings={"step": 7})
    assert steps_in(tmp_path) == {7}
    now[0] += export.SETTLE / 2
    models.tick()
    assert not (tmp_path / "manifest.json").exists()
    now[0] += export.SETTLE
    models.tick()
    assert export.read_model(tmp_path)


MODELS = 3


@dataclass(frozen=True)
class Moment:
    """The files of a folder between two changes; the last model that was staged as a whole, and the one published."""

    files: dict[str, bytes]
    staged: int
    published: int


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[Moment]:
    folder, found = tmp_path_factory.mktemp("replaced"), []
    models, staged, published = export.ModelFolder(folder), 0, 0

    def record() -> None:
        files = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
        found.append(Moment(files, staged, published))

    def write_and_record(path: Path, fill: Any) -> None:
        nonlocal published
        write_whole(path, fill)
        published += path.name == "manifest.json"
        record()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "write_whole", write_and_record)
        for step in range(1, MODELS + 1):
            weights = some_weights(cell="rnn", layers=1)
            weights = {name: np.full_like(array, step) for name, array in weights.items()}
            models.stage(weights, list("abc\n"), learning_rate=step, largest_logits=(0, 0), settings={"step": step})
            staged = step
            record()
        models.publish()
        record()
    return found


class TestCopiedWhileReplaced:
    """A copy lists the folder at one moment, and reads some files at that moment and the others at a later one.

    The folder is recorded after each change that the writer makes, and every pair of moments has its turn. All weights
    of a model are equal here, and no two models' are: a mixture would show.
    """

    @pytest.mark.parametrize("order", ["as listed", "manifest first", "manifest last"])
    def test_a_copy_is_one_model_or_not_whole(self, moments: list[Moment], tmp_path: Path, order: str) -> None:
        chance, whole = random.Random(order), set()
        for number, listed in enumerate(moments):
            names = sorted(listed.files)
            if order != "as listed":
                names.sort(key=lambda name: (name == "manifest.json") == (order == "manifest last"))
            for later in moments[number:]:
                early = chance.randrange(len(names) + 1)
                target = tmp_path / "copy"
                target.mkdir()
                for place, name in enumerate(names):
                    if (content := (listed if place < early else later).files.get(name)) is not None:
                        (target / name).write_bytes(content)
                try:
                    weights, _ = export.read_model(target)
                except TrainerError:
                    replaced = later.published - listed.published
                    settled = listed.staged > listed.published
                    assert not listed.published or replaced > (1 if settled else 0)
                    continue
                finally:
                    shutil.rmtree(target)
                (value,) = {value for array in weights.values() for value in np.unique(array).tolist()}
                whole.add(value)
        assert whole == set(range(1, MODELS + 1))


def test_another_vocabulary_is_never_seen_with_the_old_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, some_weights())
    seen = []

    def look_before(path: Path, fill: Any) -> None:
        if not path.name.startswith("step-"):
            seen.append((path.name, (tmp_path / "manifest.json").exists()))
        write_whole(path, fill)

    monkeypatch.setattr(export, "write_whole", look_before)
    write(tmp_path, some_weights(), "xyz\n")
    assert seen == [("vocab.json", False), ("settings.json", False), ("manifest.json", False)]
    seen.clear()
    write(tmp_path, some_weights(hidden=5), "xyz\n")
    assert seen == [("settings.json", True), ("manifest.json", True)], "the same vocabulary goes with both"


def test_a_manifest_cannot_have_files_elsewhere_removed_or_read(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"x": {"filename": "../outside", "shape": []}}))
    with pytest.raises(TrainerError, match="not a whole model"):
        export.read_model(folder)
    write(folder, some_weights())
    assert outside.read_text() == "precious"


def weights_file(folder: Path) -> Path:
    return folder / json.loads((folder / "manifest.json").read_text())["embedding"]["filename"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "holds no model"),
        (lambda folder: (folder / "manifest.json").write_text("[]"), "not a whole model"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "manifest.json lacks embedding"),
        (lambda folder: (folder / "vocab.json").write_text('{"a": 0}'), "1 characters in vocab.json, 4 in the network"),
        (lambda folder: weights_file(folder).write_bytes(b"12345"), "not a whole model"),
        (lambda folder: weights_file(folder).unlink(), "embedding is missing; if it was copied while"),
    ],
)
def test_half_a_model_is_an_error(tmp_path: Path, spoil: Any, said: str) -> None:
    write(tmp_path, some_weights())
    spoil(tmp_path)
    with pytest.raises(TrainerError, match=said):
        export.read_model(tmp_path)


@pytest.mark.parametrize(("vocab", "hidden"), [(4, 3), (4, 64), (90, 16), (512, 8)])
def test_one_layer_is_exported_with_a_first_cell_that_does_nothing(tmp_path: Path, vocab: int, hidden: int) -> None:
    characters = "".join(chr(0x4E00 + place) for place in range(vocab))
    weights = {name: array / np.float32(hidden**0.5) for name, array in some_weights(hidden, vocab, layers=1).items()}
    write(tmp_path, weights, characters)
    ids = np.random.default_rng(1).integers(0, vocab, 60).tolist()
    expected = probabilities(weights, ids)
    exported, _ = export.read_model(tmp_path)
    np.testing.assert_allclose(probabilities(exported, ids), expected, rtol=0, atol=1e-6)


def test_what_ml5_cannot_use_is_exported_as_it_is(tmp_path: Path) -> None:
    for folder, weights, vocabulary in (
        ("many", some_weights(3, ml5.MOST_ONE_HOT + 1, layers=1), [chr(0x4E00 + n) for n in range(513)]),
        ("words", some_weights(layers=1), ["word", "w", "o", "rd"]),
        ("gru", some_weights(layers=1, cell="gru"), list("abc\n")),
    ):
        export.write_model(tmp_path / folder, weights, vocabulary, learning_rate=0.1, largest_logits=(0.0, 0.0))
        exported, _ = export.read_model(tmp_path / folder)
        assert all(np.array_equal(exported[name], weights[name]) for name in weights)


def test_why_ml5_cannot_use_a_model() -> None:
    assert ml5.why_not("lstm", 2, "char", 5000) is None
    assert ml5.why_not("lstm", 1, "char", 512) is None
    assert "512 different characters" in str(ml5.why_not("lstm", 1, "char", 513))
    assert "this model has 3" in str(ml5.why_not("lstm", 3, "char", 60))
    assert "GRU cells" in str(ml5.why_not("gru", 2, "char", 60))
    assert "reads and writes characters" in str(ml5.why_not("lstm", 2, "word", 60))
