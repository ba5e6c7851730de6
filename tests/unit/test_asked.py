"""The digest of what was asked of a run: what one version of remoterun recorded, a later one must find again."""

from __future__ import annotations

from remoterun.agent.shared.asked import check_pattern, check_rule
from remoterun.agent.shared.spec import EnvironmentSpec, MountSpec, ResourceRef, RunSpec
from remoterun.client.runs.specs import digests_of_asked
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
    assert len({digests_of_asked(spec)[0] for spec in [SPEC, *others]}) == 4
    assert digests_of_asked(SPEC._replace(attempt=2, until=7.0)) == digests_of_asked(SPEC)


def test_what_was_recorded_is_found_again_by_later_versions() -> None:
    """A field that is added must be empty in the runs of before; whoever has to change this text breaks `rerun`."""
    assert set(digests_of_asked(SPEC)) == {"39189bab1ce569caf92f471a772b3c8346ca1dc48c840abbeb4908af4e11e91c"}
    mounts = [MountSpec("uploads/a@1", "a", "a", ResourceRef("upload", "a", digest=letter * 64)) for letter in "ab"]
    one, two = (digests_of_asked(SPEC._replace(mounts=(mount,))) for mount in mounts)
    assert one[0] != two[0], "what a mount holds counts"
    before = "49d939f865cd15114e97dbd438e2fe15fd00c6b2085bd0c48c29dd7c020307ce"
    assert one[1] == two[1] == before, "which it did not in earlier versions"


def test_rules(recorded: Recorded) -> None:
    recorded.cases(check_rule)
    assert not check_rule("x" * 201 + " > 4")


def test_patterns(recorded: Recorded) -> None:
    recorded.cases(check_pattern)
    assert not check_pattern("(?P<a>x)" + "y" * 500) and not check_pattern("(" * 5000)
