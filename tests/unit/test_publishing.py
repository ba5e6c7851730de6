"""The card of a published page: which commands stand on it without a question."""

from __future__ import annotations

from remoterun.client.exports.publishing import NO_VALUES
from tests.recorder import Recorded


def test_a_command_is_shown_unasked_without_values_alone(recorded: Recorded) -> None:
    recorded.cases(lambda command: "shown" if NO_VALUES.fullmatch(command) else "asked about")
