"""A run's spec: what is written is read again, what can't be right is refused, and old ones stay readable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from remoterun.agent.shared import spec as spec_module
from remoterun.agent.shared.archive import MOST_IMAGE, Grant, ImageAccess, SignedObject, Take
from remoterun.agent.shared.spec import (
    FORMAT,
    EnvironmentSpec,
    GitState,
    MountSpec,
    ResourceRef,
    RunSpec,
    SpecError,
)
from remoterun.agent.shared.submission import Submission
from tests.recorder import Recorded
from tests.workshop import spec_of

DIGEST = "ab" * 32
FULL = RunSpec(
    key="abcdefgh",
    number=7,
    created=1.5,
    machine="box",
    command="python train.py\n",
    environment=EnvironmentSpec(
        "python:3.12-slim", "gpu", DIGEST, image="me/mine:1", apt=("git",), pip=("a==1",), requirements="b\n"
    ),
    workdir="sub/dir",
    source=DIGEST,
    mounts=(
        MountSpec("uploads/doom/x", "data", "sub/dir/data", ResourceRef("upload", "doom", sub="x", digest="d" * 64)),
        MountSpec("runs/3", "/abs", "/abs", ResourceRef("run", key="zyxwvuts", number=3)),
    ),
    env={"PYTHONUNBUFFERED": "1"},
    asked_env=("TOKEN", "KEY"),
    secrets={"KEY": "HF_KEY"},
    engine="docker",
    gpus=2,
    slots=1,
    timeout=90.0,
    description="a run",
    labels=("one", "two"),
    git=GitState("c0ffee", "main", "git@example.org:x", True, DIGEST),
)
GRANT = Grant("https://mine.s3.example.org/", {"policy": "eyJ9", "x-amz-signature": "00ff"}, "runs/abcdefgh/", 2e9)
PART = SignedObject("https://mine.s3.example.org/envs/x/y?X-Amz-Signature=00ff", [Take(DIGEST, 5, 0, 0, 5)])
ACCESS = ImageAccess("remoterun-env:0123456789abcdef", [PART], GRANT)


@pytest.mark.parametrize("spec", [FULL, spec_of()])
def test_what_is_written_is_read_again(spec: RunSpec) -> None:
    assert RunSpec.decode(spec.encode()) == spec
    assert json.loads(spec.encode())["format"] == FORMAT


def changed(path: str, value: Any) -> dict[str, Any]:
    """The record of `FULL` with one field of it, such as "git.diff", replaced."""
    record: dict[str, Any] = json.loads(FULL.encode())
    *folders, name = path.split(".")
    place: Any = record
    for folder in folders:
        place = place[int(folder) if folder.isdigit() else folder]
    place[name] = value
    return record


def test_a_field_that_cannot_be_right(recorded: Recorded) -> None:
    def read(title: str) -> RunSpec:
        path, _, value = title.partition(" ")
        return RunSpec.from_record(changed(path, json.loads(value)))

    recorded.cases(read, SpecError)
    with pytest.raises(SpecError, match="the value of X has more than 128 KiB"):
        RunSpec.from_record(changed("env", {"X": "x" * (128 << 10)}))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"format": 2}'])
def test_what_is_no_spec(data: bytes) -> None:
    with pytest.raises(SpecError):
        RunSpec.decode(data)


def test_a_spec_of_a_newer_remoterun() -> None:
    with pytest.raises(SpecError, match="spec format 3 is of a newer remoterun"):
        RunSpec.from_record(changed("format", 3))


def test_no_error_names_a_value() -> None:
    with pytest.raises(SpecError) as caught:
        Submission(FULL, {"TOKEN": "hunter2\0"}, b"").encode()
    assert "TOKEN" in str(caught.value) and "hunter2" not in str(caught.value)


class TestSubmission:
    def test_what_is_written_is_read_again(self) -> None:
        asked = Submission(FULL, {"TOKEN": "s'ecret"}, b"a manifest")
        assert Submission.decode(asked.encode()) == asked
        again = Submission(FULL._replace(attempt=2, log_before=7), {}, b"a manifest", None, b"another")
        assert Submission.decode(again.encode()) == again
        with pytest.raises(SpecError, match="of which there are none"):
            asked._replace(left=b"another").encode()

    def test_a_grant_comes_with_a_bucket_and_only_so(self) -> None:
        spec = FULL._replace(bucket="s3://mine", until=2e9, attempt=2)
        for grant in (GRANT, None):
            asked = Submission(spec, {"TOKEN": "s'ecret"}, b"a manifest", grant)
            assert Submission.decode(asked.encode()) == asked
        with pytest.raises(SpecError, match="without a bucket"):
            Submission(FULL, {}, b"", GRANT).encode()

    @pytest.mark.parametrize(
        "bad",
        [
            GRANT._replace(url="file:///etc/passwd"),
            GRANT._replace(prefix=""),
            GRANT._replace(fields={"policy": "a\r\nb"}),
            GRANT._replace(fields=["hidden"]),  # type: ignore[arg-type]
        ],
    )
    def test_a_grant_that_is_none(self, bad: Grant) -> None:
        with pytest.raises(SpecError) as caught:
            Submission.decode(Submission(FULL._replace(bucket="s3://mine"), {}, b"", bad).encode())
        assert "hidden" not in str(caught.value)

    def test_images_come_with_a_bucket_and_only_so(self) -> None:
        spec = FULL._replace(bucket="s3://mine", until=2e9, attempt=2)
        for images in ((ACCESS,), (ACCESS._replace(stored=[]), ACCESS._replace(grant=None))):
            asked = Submission(spec, {}, b"a manifest", GRANT, images=images)
            assert Submission.decode(asked.encode()) == asked
        with pytest.raises(SpecError, match="without a bucket"):
            Submission(FULL, {}, b"", images=(ACCESS,)).encode()

    @pytest.mark.parametrize(
        "bad",
        [
            ACCESS._replace(image="python:hidden"),
            ACCESS._replace(grant=GRANT._replace(url="file:///hidden")),
            ACCESS._replace(stored=["hidden"]),  # type: ignore[list-item]
            ACCESS._replace(stored=[PART._replace(takes=[])]),
            ACCESS._replace(stored=[PART, PART._replace(takes=[Take(DIGEST, 6, 0, 0, 5)])]),
            ACCESS._replace(stored=[PART._replace(takes=[Take(DIGEST, MOST_IMAGE + 1, 0, 0, MOST_IMAGE + 1)])]),
            ACCESS._replace(stored=[PART._replace(takes=[Take("hidden", 5, 0, 0, 5)])]),
        ],
    )
    def test_an_access_to_an_image_that_is_none(self, bad: ImageAccess) -> None:
        body = Submission(FULL._replace(bucket="s3://mine"), {}, b"", GRANT, images=(bad,)).encode()
        with pytest.raises(SpecError) as caught:
            Submission.decode(body)
        assert "hidden" not in str(caught.value)

    @pytest.mark.parametrize("keep", range(0, 40, 3))
    def test_one_that_is_cut(self, keep: int) -> None:
        whole = Submission(FULL, {"TOKEN": "s'ecret"}, b"").encode()
        for body in (whole[:keep], whole[: -keep - 1]):
            with pytest.raises(SpecError):
                Submission.decode(body)

    def test_one_that_is_too_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spec_module, "MOST_BYTES", 1 << 20)
        with pytest.raises(SpecError, match="1 are allowed"):
            Submission(FULL._replace(command="x" * (1 << 20)), {}, b"").encode()


@pytest.mark.parametrize(
    ("resource", "typed"),
    [
        (ResourceRef("upload", "doom", sub="a/b"), "uploads/doom/a/b"),
        (ResourceRef("run", key="abcdefgh", number=3), "runs/3"),
        (ResourceRef("run", key="abcdefgh"), "runs/abcdefgh"),
    ],
)
def test_a_resource(resource: ResourceRef, typed: str) -> None:
    assert resource.check().typed == typed
