"""The card of a published page: which commands stand on it without a question."""

from __future__ import annotations

import pytest

from remoterun.client.exports.publishing import NO_VALUES


@pytest.mark.parametrize("command", ["python train.py", "python -m trainer.train", "./train.sh", "node src/train.mjs"])
def test_a_program_and_its_file_are_shown_unasked(command: str) -> None:
    assert NO_VALUES.fullmatch(command)


@pytest.mark.parametrize(
    "command",
    [
        "python t.py --token abc",
        "python t.py abc",
        "TOKEN=abc python t.py",
        "./upload abc",
        "curl https://me:abc@example.org",
        "python -c 'print(1)'",
        "python t.py\nTOKEN=abc",
    ],
)
def test_a_command_with_values_is_asked_about(command: str) -> None:
    assert not NO_VALUES.fullmatch(command)
