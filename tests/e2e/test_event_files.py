"""What TensorFlow's own calls put into event files, in the environment that runs get: curves, and pictures, sounds and
texts of the diary."""

from __future__ import annotations

import textwrap

import pytest

from remoterun.client.exports.diary import diary
from tests.e2e.conftest import Place

pytestmark = [pytest.mark.tensorflow, pytest.mark.index]

TRAIN = """
    import json, keras, numpy, tensorflow as tf
    x, y = numpy.ones((40, 4)), numpy.ones((40, 1))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="out")])
    model.compile("sgd", "mse")
    callback = keras.callbacks.TensorBoard("logs", histogram_freq=1)
    model.fit(x, y, epochs=3, validation_split=0.5, verbose=0, callbacks=[callback])
    noise = numpy.random.default_rng(1).random((2, 700, 700, 3), "float32")
    with tf.summary.create_file_writer("own").as_default() as writer:
        arguments = {"learning_rate": 5e-05, "seed": 42}  # As of Hugging Face's Trainer.
        tf.summary.text("args", json.dumps(arguments, indent=2), 0)
        for step in (0, 50):
            tf.summary.image("fakes", noise, step)
            tf.summary.audio("voice", noise[:1, :, 0, :1], 8000, step)
            tf.summary.text("sample", f"Step {step}: what light through yonder window breaks?", step)
            tf.summary.histogram("z", numpy.linspace(-1, 1, 1001), step)
"""


def test_keras_and_tensorboard(shared: Place) -> None:
    (shared.folder / "summaries.py").write_text(textwrap.dedent(TRAIN))
    shared.run("machines", "add", "plain", "local", "--engine", "process", "-y", "--default")
    shared.run("run", "-y", "--no-git", "--framework", "tensorflow", "python summaries.py")
    number = str(shared.newest()["number"])
    points = [line.split(",") for line in shared.run("metrics", number, "--csv").stdout.splitlines()[1:]]
    last = {name: float(value) for _, name, _, _, value in points}
    assert "epoch_loss" in last
    assert any(name.endswith("out/kernel/histogram/p50") for name in last), sorted(last)
    assert [round(last[f"z/{share}"], 1) for share in ("p05", "p50", "p95")] == [-0.9, 0, 0.9]
    files = shared.run("ls", f"runs/{number}", "-r").stdout
    paths = [line.split("  ")[-1] for line in files.splitlines()]
    found = {each.name: (each.kind, [step for step, _ in each.steps]) for each in diary(paths)}
    assert found == {
        "own/fakes": ("image", [0, 50]),
        "own/fakes-2": ("image", [0, 50]),
        "own/voice": ("sound", [0, 50]),
        "own/sample": ("text", [0, 50]),
        "own/args": ("text", [0]),
    }
    shown = shared.run("report", number, "--no-files").stdout
    assert "5e-05" in shown
    assert "window" in (shared.run("cp", f"runs/{number}/own/events.media/sample/step-50.txt", "-").stdout)
