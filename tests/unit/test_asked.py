"""The digest of what was asked of a run: what one version of remoterun recorded, a later one must find again."""

from __future__ import annotations

import pytest

from remoterun.agent.shared.asked import check_pattern, check_rule
from remoterun.agent.shared.spec import EnvironmentSpec, MountSpec, ResourceRef, RunSpec
from remoterun.client.runs.specs import digest_of_asked

SPEC = RunSpec(
    "k" * 26,
    7,
    100.0,
    "box",
    "true",
    EnvironmentSpec("python:3.12-slim", "cpu", "c" * 64),
    source="5" * 64,
    asked_env=("A",),
)


def test_all_but_what_belongs_to_one_attempt_counts() -> None:
    others = [SPEC._replace(secrets={"A": "B"}), SPEC._replace(command="false"), SPEC._replace(asked_env=("A", "B"))]
    assert len({digest_of_asked(spec) for spec in [SPEC, *others]}) == 4
    assert digest_of_asked(SPEC._replace(attempt=2, until=7.0)) == digest_of_asked(SPEC)


def test_what_was_recorded_is_found_again_by_later_versions() -> None:
    """A field that is added must be empty in the runs of before; whoever has to change this text breaks `rerun`."""
    assert digest_of_asked(SPEC) == "39189bab1ce569caf92f471a772b3c8346ca1dc48c840abbeb4908af4e11e91c"
    mounts = [MountSpec("uploads/a@1", "a", "a", ResourceRef("upload", "a", digest=letter * 64)) for letter in "ab"]
    one, two = (digest_of_asked(SPEC._replace(mounts=(mount,))) for mount in mounts)
    assert one != two, "what a mount holds counts"


@pytest.mark.parametrize(
    ("rule", "right"),
    [
        ("loss > 4", True), ("val/loss>=4.5e-3 for 10m", True), ("acc < -1", True), ("no step for 1h", True),
        ("gpu idle for 90s", True), ("loss > 4 for 10", False), ("loss > 4 for .m", False), ("loss > ..", False),
        ("loss > 1e99", False), ("loss", False), ("no step", False), ("gpu idle for 1x", False), ("", False),
        ("loss > 4\n", False), ("x" * 201 + " > 4", False),
    ],
)  # fmt: skip
def test_rules(rule: str, right: bool) -> None:
    assert check_rule(rule) is right


@pytest.mark.parametrize(
    ("pattern", "right"),
    [
        (r"loss=(?P<loss>\S+)", True), ("(a)", False), ("(?P<a>", False), ("(?P<a>x)" + "y" * 500, False),
        ("(" * 5000, False), ("(?P<a>x{99999999999999999999})", False),
        (r"[[](?P<loss>.)", True),
    ],
)  # fmt: skip
def test_patterns(pattern: str, right: bool) -> None:
    assert check_pattern(pattern) is right
