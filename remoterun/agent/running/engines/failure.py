"""Of a build that failed: the line of its log that says why, and what to do."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

from .job import BuildJob

_LINES = 400
"""Of the log's end, in which the line is looked for."""
_PREFIX = re.compile(r"^(#\d+ (?:[\d.]+ )?)?\s*")
"""What BuildKit, and a program's own layout, put before a line."""
_UNREACHABLE = re.compile(
    r"Temporary failure in name resolution|Name or service not known|NewConnectionError|ConnectTimeout|ProxyError"
    r"|SSLError|CERTIFICATE_VERIFY_FAILED|dns error|Could not resolve '",
    re.IGNORECASE,
)
_NOTHING_FITS = re.compile(r"^ERROR: (No matching distribution found for (\S+).*)")
_VERSIONS = re.compile(r"^ERROR: Could not find a version that satisfies .*\(from versions: (.*)\)")
_CONFLICT = re.compile(r"^ERROR: (Cannot install .* conflicting dependencies)")
_UV = re.compile(r"^(?:cause: |╰─▶ )(Because (?:(\S+) was not found in the package registry)?.*)")
_SEARCH = "pip index versions %s   shows whether there is one of this name"
_APT = re.compile(r"^E: (.*)")
_COMPILER = re.compile(
    r"error: command '.*(?:gcc|cc|g\+\+|clang|c\+\+)' failed|unable to execute '.*gcc'|gcc: not found"
)
_PIP = re.compile(r"^ERROR: ((?!ResolutionImpossible|process |failed to solve|executor ).*)")
_ANY = re.compile(r"^error: (.*)")


class Failure(NamedTuple):
    """`line`: the one that says why, with the name of the program that said it."""

    line: str
    hint: Optional[str]


def explain(job: BuildJob, tensorflow: bool) -> Failure:
    """Why the last program of a build failed. `tensorflow`: whether its packages were installed beside those of
    TensorFlow."""
    lines = [_PREFIX.sub("", line) for line in job.tail(_LINES).splitlines()]
    starts = [number for number, line in enumerate(lines) if line.startswith("$ ")]
    lines = lines[starts[-1] + 1 :] if starts else lines

    def find(pattern: "re.Pattern[str]") -> "Optional[re.Match[str]]":
        return next((match for match in map(pattern.match, lines) if match), None)

    if any(map(_UNREACHABLE.search, lines)):
        last = next(line for line in reversed(lines) if _UNREACHABLE.search(line))
        return Failure("the package index can't be reached: %s" % last[:200], "check that machine's network or proxy")
    nothing, versions, conflict = find(_NOTHING_FITS), find(_VERSIONS), find(_CONFLICT)
    if nothing:
        name = re.split(r"[<>=!~;\[]", nothing.group(2))[0]
        known = versions.group(1).split(", ")[-1] if versions else "none"
        hint: Optional[str] = _SEARCH % name
        if known != "none":
            hint = "--pip %s==%s   is the newest one that this Python can use" % (name, known)
        return Failure("pip: " + nothing.group(1), hint)
    if conflict:
        hint = "--framework python   installs your packages without TensorFlow" if tensorflow else None
        return Failure("pip: " + conflict.group(1), hint or "allow other versions of one of them")
    if any(map(_COMPILER.search, lines)):
        line = next(line for line in lines if _COMPILER.search(line))
        return Failure("a package has to be compiled: " + line, "--apt build-essential   brings a compiler, in Docker")
    found = find(_UV)
    if found:
        return Failure("uv: " + found.group(1), _SEARCH % found.group(2) if found.group(2) else None)
    for program, pattern in (("apt", _APT), ("pip", _PIP)):
        found = find(pattern)
        if found:
            return Failure("%s: %s" % (program, found.group(1)), None)
    found = find(_ANY)
    return Failure(
        found.group(1) if found else next((line for line in reversed(lines) if line), "no word of why"), None
    )
