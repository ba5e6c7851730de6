"""The GPUs of a machine decide which TensorFlow its runs get."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remoterun.agent.shared.spec import BASE_IMAGE, EnvironmentSpec
from tests.lab import gpu
from tests.lab.gpu import Gpu
from tests.workshop import Place, until

K80, T4 = Gpu(), Gpu("Tesla T4", 15360, compute_cap="7.5")
SAYS = "Tesla K80 (compute capability 3.7), so it runs with TensorFlow 2.14 with CUDA 11.8"


def give_gpus(folder: Path, monkeypatch: pytest.MonkeyPatch, *cards: Gpu) -> None:
    """Let this machine have GPUs, as far as `nvidia-smi` says."""
    folder.mkdir(exist_ok=True)
    gpu.install(folder, cards, str(folder / "share/lab-gpus"))
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")


@pytest.fixture
def place(tmp_path: Path, environment: Path) -> Iterator[Place]:
    place = Place(tmp_path / "home", environment)
    yield place
    place.close()


def resolved(place: Place, key: str) -> str:
    """The variant that a run got."""
    spec = json.loads(Path(place.run(key).spec_file).read_text())
    assert spec["environment"]["variant"] == "gpu", "what was asked for stays as it was asked"
    return place.run(key).resolved_spec().environment.variant


def asked(place: Place) -> EnvironmentSpec:
    return EnvironmentSpec(BASE_IMAGE, "gpu", place.context)


def notes(place: Place, key: str) -> list[str]:
    return [event["note"] for event in place.run(key).events() if "note" in event]


@pytest.mark.parametrize(
    ("cards", "variant", "said"),
    [((K80,), "gpu-cuda11", [SAYS]), ((T4,), "gpu", []), ((K80, T4), "gpu-cuda11", [SAYS])],
)
def test_by_the_cards_of_the_machine(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: tuple[Gpu, ...], variant: str, said: list[str]
) -> None:
    give_gpus(tmp_path / "cards", monkeypatch, *cards)
    key = place.submit("true", environment=asked(place), gpus=len(cards))
    assert place.until_final(key)["state"] == "complete"
    assert (resolved(place, key), notes(place, key)) == (variant, said)


def test_only_the_card_that_the_run_got_counts(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run takes the K80; the second one gets the T4 beside it."""
    give_gpus(tmp_path / "cards", monkeypatch, K80, T4)
    first = place.submit("echo up; while [ ! -e go ]; do sleep 0.05; done", environment=asked(place), gpus=1)
    place.until_says(first, b"up")
    second = place.submit("true", environment=asked(place), gpus=1)
    assert place.until_final(second)["state"] == "complete"
    Path(place.run(first).work, "go").touch()
    assert place.until_final(first)["state"] == "complete"
    assert (resolved(place, first), resolved(place, second)) == ("gpu-cuda11", "gpu")


def test_what_was_found_is_kept_though_the_supervisor_dies(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next supervisor goes on with the environment in which the command was started."""
    give_gpus(tmp_path / "cards", monkeypatch, K80)
    key = place.submit("echo up; while [ ! -e go ]; do sleep 0.05; done", environment=asked(place), gpus=1)
    place.until_says(key, b"up")
    place.lose_supervisor(key)
    gpu.write_gpus(tmp_path / "cards", [T4])
    Path(place.run(key).work, "go").touch()
    assert place.until_status(key)["state"] == "complete"
    assert (resolved(place, key), notes(place, key)) == ("gpu-cuda11", [SAYS])


def test_a_driver_that_does_not_answer_is_waited_for(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It granted the GPU a moment ago, and a K80 must not get packages that have no code for it."""
    give_gpus(tmp_path / "cards", monkeypatch, K80)
    real, program = tmp_path / "cards/bin/real-smi", tmp_path / "cards/bin/nvidia-smi"
    program.rename(real)
    program.write_text(
        f'#!/bin/sh\ncase $1 in *driver_version*) [ -e {tmp_path}/well ] || exit 9;; esac\nexec {real} "$@"\n'
    )
    program.chmod(0o755)
    key = place.submit("true", environment=asked(place), gpus=1)
    until(lambda: "waiting for a GPU; nvidia-smi fails, with 9" in notes(place, key))
    (tmp_path / "well").touch()
    assert place.until_final(key)["state"] == "complete"
    assert resolved(place, key) == "gpu-cuda11"


def test_a_stop_while_the_driver_does_not_answer(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpus(tmp_path / "cards", monkeypatch, K80)
    real, program = tmp_path / "cards/bin/real-smi", tmp_path / "cards/bin/nvidia-smi"
    program.rename(real)
    program.write_text(f'#!/bin/sh\ncase $1 in *driver_version*) exit 9;; esac\nexec {real} "$@"\n')
    program.chmod(0o755)
    key = place.submit("true", environment=asked(place), gpus=1)
    until(lambda: notes(place, key))
    place.end(key, "stop")
    assert place.until_final(key)["reason"] == "stopped"
