"""The digest of what was asked of a run."""

from __future__ import annotations

from remoterun.agent.shared.spec import EnvironmentSpec, RunSpec
from remoterun.client.again import digest_of_asked

SPEC = RunSpec(
    "k" * 26,
    7,
    100.0,
    "box",
    "true",
    EnvironmentSpec(None, "python:3.12-slim", "cpu", "c" * 64),
    source="5" * 64,
    asked_env=("A",),
)


def test_all_but_what_belongs_to_one_attempt_counts() -> None:
    others = [SPEC._replace(secrets={"A": "B"}), SPEC._replace(command="false"), SPEC._replace(asked_env=("A", "B"))]
    assert len({digest_of_asked(spec) for spec in [SPEC, *others]}) == 4
    assert digest_of_asked(SPEC._replace(attempt=2, until=7.0)) == digest_of_asked(SPEC)
