"""Calls of git, each a process of its own. `commit.py` reads the names of branches and tags by its SDK."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from remoterun.agent.shared.records import Record
from remoterun.errors import SourceError
from remoterun.source.tree import git_line, named

AS_IT_IS = '`source=remoterun.snapshot(".", no_git=True)` sends the folder as it is'
GIT_DEADLINE = 600.0  # seconds for one call of git; the longest checks out a commit, perhaps through Git LFS

_GRACE = 0.5  # seconds that git has to remove its lock files after SIGTERM

# Left out of git's environment: hooks and aliases set them for the repository *they* run in, or they bend the output.
_FOREIGN_VARIABLES = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_PREFIX",
    "GIT_IMPLICIT_WORK_TREE",
    "GIT_INTERNAL_SUPER_PREFIX",
    "GIT_NAMESPACE",
    "GIT_SHALLOW_FILE",
    "GIT_GRAFT_FILE",
    "GIT_REPLACE_REF_BASE",
    "GIT_CONFIG",
    "GIT_ATTR_SOURCE",
    "GIT_EXTERNAL_DIFF",
    "GIT_DIFF_OPTS",
    "GIT_LITERAL_PATHSPECS",
    "GIT_GLOB_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
)
_ENVIRONMENT = {
    "LC_ALL": "C",  # messages are compared with git's own words
    "LANGUAGE": "C",
    "GIT_OPTIONAL_LOCKS": "0",  # looking at the work tree must not rewrite the user's index
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # a repository may name a program that fetches what it lacks
    "GIT_ALLOW_PROTOCOL": "",  # the same, for git before 2.44
}
_SETTINGS = {
    "core.fsmonitor": "false",  # would start a daemon
    "core.hooksPath": os.devnull,
    "safe.bareRepository": "explicit",  # a clone may hold a folder that is one, with a `config` of its own
    "core.safecrlf": "false",
    "color.ui": "false",
    "diff.orderFile": os.devnull,
    "log.showSignature": "false",
    "gc.auto": "0",
}


class Answer(Record):
    """What one call of git gave."""

    status: int
    output: bytes
    error: str


@dataclass(frozen=True)
class Git:
    """Git in one folder. Each call blocks, for `deadline` seconds at most, and starts one process.

    `options` stand before git's subcommand; `settings` and `environment` add to those that every call gets.
    """

    folder: str
    options: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    deadline: float = field(default_factory=lambda: GIT_DEADLINE)

    def run(self, *words: str, stdin: int | None = None) -> bytes:
        """Standard output of a call of git that must succeed; `SourceError` with git's words if it doesn't."""
        answer = self.attempt(*words, stdin=stdin)
        if answer.status:
            self.fail(answer)
        return answer.output

    def attempt(self, *words: str, stdin: int | None = None) -> Answer:
        """Calls git, whatever its outcome. Raises `SourceError` if git doesn't start, or doesn't end in time.

        When it raises, an interrupt included, git has ended, and so has every filter that git started.
        """
        environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_VARIABLES}
        command = ["git", "--no-pager", "-C", self.folder, *self.options]
        for key, value in {**_SETTINGS, **self.settings}.items():
            command += ["-c", f"{key}={value}"]
        try:
            process = subprocess.Popen(
                [*command, *words],
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**environment, **_ENVIRONMENT, **self.environment},
                start_new_session=True,  # git and its filters are one process group, which `_end` can signal
            )
        except FileNotFoundError as error:
            raise SourceError(
                "git is not installed, or not in PATH",
                hint=f"install git; or {AS_IT_IS}",
            ) from error
        except OSError as error:
            raise SourceError("git doesn't start", hint="`git --version` shows why", evidence=str(error)) from error
        try:
            output, errors = process.communicate(timeout=self.deadline)
        except subprocess.TimeoutExpired:
            _end(process)
            raise SourceError(
                f"`git {words[0]}` in {named(self.folder)} took longer than {self.deadline:g} s",
                hint=f"see whether `{git_line(self.folder, 'status')}` ends",
            )
        except BaseException:
            _end(process)
            raise
        return Answer(process.returncode, output, errors.decode("utf-8", "replace").rstrip())

    def fail(self, answer: Answer) -> NoReturn:
        """Raises what git's words mean."""
        if "dubious ownership" in answer.error:
            line = re.search(r"git config --global --add safe\.directory .*", answer.error)
            raise SourceError(
                f"git doesn't trust the repository that holds {named(self.folder)}, as someone else owns it",
                hint=f"`{line.group(0)}`" if line else None,
                evidence=answer.error,
            )
        reasons = [line for line in answer.error.splitlines() if line.startswith(("fatal: ", "error: "))]
        reason = reasons[-1].partition(": ")[2].rstrip(".") if reasons else f"exit status {answer.status}"
        raise SourceError(
            f"git fails in {named(self.folder)}: {reason}",
            hint="`git checkout` of that commit fetches what a partial clone lacks"
            if "unable to read sha1 file" in answer.error
            else f"`{git_line(self.folder, 'status')}`",
            evidence=answer.error or None,
        )


def one_line(output: bytes) -> str:
    """One line of output; a name may itself hold a line's end."""
    return os.fsdecode(output.removesuffix(b"\n"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends git and its filters, and closes their pipes. Blocks for `_GRACE` at most."""
    _signal_all(process, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE)
    _signal_all(process, signal.SIGKILL)
    with process:  # closes its pipes and waits for it
        pass


def _signal_all(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended; macOS forbids to signal a zombie
        os.killpg(process.pid, number)
