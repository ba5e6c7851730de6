"""The ways to compute a network agree. One TensorFlow for the whole file, in a process with two devices."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require

pytestmark = pytest.mark.tensorflow

ROOT = Path(__file__).parents[2]

PROGRAM = """
import json
import numpy as np, tensorflow as tf
from trainer import generate, model

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

TEXT = "".join(f"{n} green bottles hanging on the wall,\\n" for n in range(99, 0, -1))
CHARACTERS = sorted(set(TEXT))
IDS = np.array([CHARACTERS.index(character) for character in TEXT], np.int32)
STEPS, LENGTH = 60, 17


def network(cell="lstm", layers=2, batch=12, keep=1.0, size=16, **how):
    hyper = model.Hyperparameters(cell, size, layers, batch, 5.0, keep, keep, 3)
    return model.Model(model.new_weights(len(CHARACTERS), hyper), hyper, **{"shards": 1, "jit": True, **how})


def losses(batch=12, steps=STEPS, **how):
    streams = IDS[: len(IDS) // batch * batch].reshape(batch, -1)
    trained = network(batch=batch, **how)
    found = []
    for step in range(1, steps + 1):
        at = step * LENGTH % (streams.shape[1] - LENGTH - 1)
        pair = streams[:, at : at + LENGTH], streams[:, at + 1 : at + LENGTH + 1]
        found.append(float(trained.train_step(*pair, rate=0.01, step=step)))
    return found, trained


def apart(one, other):
    return float(np.max(np.abs(np.array(one) - np.array(other))))


report = {"apart": {}, "learned": {}, "cells": {}}
for layers, batch, keep, jit in ((1, 12, 1.0, False), (2, 7, 1.0, True), (3, 7, 0.8, False)):
    plain, _ = losses(layers=layers, batch=batch, keep=keep, way="plain", jit=False)
    fast, _ = losses(layers=layers, batch=batch, keep=keep, jit=jit)
    name = f"fast, {layers} layers, batch {batch}, keep {keep}"
    report["apart"][name], report["learned"][name] = apart(plain, fast), [plain[0], plain[-1]]

plain, _ = losses(way="plain", jit=False)
two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
for name, how in {
    "cut into shards": dict(shards=3),
    "not compiled, in shards": dict(shards=2, jit=False),
    "Keras' layer": dict(way="cudnn", jit=False),
    "two devices": dict(strategy=two, shards=2),
}.items():
    report["apart"][name] = apart(plain, losses(**how)[0])

_, mirrored = losses(strategy=two, steps=15, keep=0.8, jit=False)
_, again = losses(strategy=two, steps=15, keep=0.8, jit=False)
there = mirrored.arrays()
mirrored.restore(there)
report["same arrays"] = all(np.array_equal(there[name], array) for name, array in mirrored.arrays().items())
report["repeated"] = all(np.array_equal(there[name], array) for name, array in again.arrays().items())
one = network(jit=False)
one.restore(there)
pair = IDS[None, :-1][:, None], IDS[None, 1:][:, None]
report["evaluated"] = [mirrored.evaluate(*pair), one.evaluate(*pair)]

for cell in ("lstm", "gru", "rnn"):
    found, trained = losses(cell=cell, layers=2, jit=cell == "gru")
    weights = trained.weights()
    logits, _ = model.forward(weights, tf.constant(IDS[None, :50]), model.zero_state(1, trained._hyper))
    reader = generate.Reader(weights)
    report["cells"][cell] = [found[0], found[-1], apart(logits[:, 0], [reader.read(id) for id in IDS[:50]])]
print(json.dumps(report))
"""


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    require(None if importlib.util.find_spec("tensorflow") else "TensorFlow is not installed")
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True, text=True, timeout=250,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_every_way_gives_the_losses_of_plain_differentiation(report: dict[str, Any]) -> None:
    assert len(report["apart"]) == 7
    assert {name: apart for name, apart in report["apart"].items() if not apart < 1e-5} == {}
    assert all(last < first - 0.3 for first, last in report["learned"].values())


def test_two_devices_share_a_batch_and_keep_the_same_weights(report: dict[str, Any]) -> None:
    assert report["same arrays"] and report["repeated"]
    mirrored, one = report["evaluated"]
    assert mirrored == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_cell_learns_and_is_read_the_same_without_tensorflow(report: dict[str, Any], cell: str) -> None:
    first, last, apart = report["cells"][cell]
    assert last < first - 0.3
    assert apart < 1e-5
