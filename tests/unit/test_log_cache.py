"""Logs that are kept here."""

from __future__ import annotations

import os
from pathlib import Path

from remoterun.log_cache import ABANDONED, LogCache, LogWriter


def test_a_log_that_comes_for_days_is_kept_and_what_a_client_left_is_not(tmp_path: Path) -> None:
    logs, long_ago = LogCache(tmp_path, 1000), -ABANDONED - 60
    with LogWriter(logs, "k") as writer:
        writer.add(0, b"day 1\n")
        (folder,) = logs.folder.iterdir()
        began = (folder / "log").stat().st_mtime + long_ago
        os.utime(folder, (began, began))  # nothing was made in it since
        left = logs.folder / ".left"
        left.mkdir()
        (left / "log").write_bytes(b"half")
        for path in (left / "log", left):
            os.utime(path, (began, began))
        logs.drop_oldest()
        assert [*logs.folder.iterdir()] == [folder]
        writer.add(6, b"day 2\n")
        writer.finish()
    assert Path(logs.log_file("k").path).read_bytes() == b"day 1\nday 2\n"
