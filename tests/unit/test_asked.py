"""The digest of what was asked of a run: what one version of remoterun recorded, a later one must find again."""

from __future__ import annotations

from remoterun.agent.shared.spec import EnvironmentSpec, RunSpec
from remoterun.client.specs import digest_of_asked

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
