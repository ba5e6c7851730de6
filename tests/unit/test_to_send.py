"""The question about files that git does not track."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun.cli.to_send import Sending, _answer
from remoterun.source import Source


def test_a_file_that_vanishes_while_it_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("12345")
    (tmp_path / "dangling").symlink_to("nothing")
    absent = [".a.swp", "a.txt", "dangling", "folder/"]
    how = Sending(None, False, False, True)
    assert _answer(Source(str(tmp_path)), absent, ["a.txt"], how, tmp_path / "home") == "y"
    said = capsys.readouterr().err
    assert "4 files are not tracked by git, 5 bytes:\n  a.txt   5 bytes   (the command names it)\n" in said
