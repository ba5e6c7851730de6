"""What lies in a work tree."""

from __future__ import annotations

import os
import stat

from remoterun.errors import SourceError
from remoterun.source.wording import named


class Disk:
    """Looks at a work tree as git does: what lies behind a symbolic link isn't in it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._folders = {"": True}

    def status(self, path: str) -> os.stat_result | None:
        """Status of `path` itself, links not followed; None if it isn't there."""
        return self._lstat(path) if self.is_folder(path.rpartition("/")[0]) else None

    def is_folder(self, folder: str) -> bool:
        """Whether `folder` is one, and none of its parents a link. Each folder is looked at once."""
        known = self._folders.get(folder)
        return self._look(folder) if known is None else known

    def _look(self, folder: str) -> bool:
        parts = folder.split("/")
        for length in range(1, len(parts) + 1):
            path = "/".join(parts[:length])
            if path not in self._folders:
                status = self._lstat(path)
                self._folders[path] = status is not None and stat.S_ISDIR(status.st_mode)
            if not self._folders[path]:
                self._folders[folder] = False
                return False
        return True

    def _lstat(self, path: str) -> os.stat_result | None:
        try:
            return os.lstat(f"{self._root}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SourceError(f"can't look at {named(path)}: {error.strerror}") from error
