"""The digest of what was asked of a run: what one version of remoterun recorded, a later one must find again."""

from __future__ import annotations

from remoterun.agent.shared.asked import check_pattern, check_rule
from remoterun.agent.shared.spec import EnvironmentSpec, MountSpec, ResourceRef, RunSpec
from remoterun.client.runs.specs import digest_of_asked
from tests.recorder import Recorded

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


def test_rules(recorded: Recorded) -> None:
    recorded.cases(check_rule)
    assert not check_rule("x" * 201 + " > 4")


def test_patterns(recorded: Recorded) -> None:
    recorded.cases(check_pattern)
    assert not check_pattern("(?P<a>x)" + "y" * 500) and not check_pattern("(" * 5000)
