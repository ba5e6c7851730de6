"""What a project's own files say that it needs: requirements.txt, pyproject.toml, uv.lock, as a requirements file."""

from __future__ import annotations

import posixpath
import shlex
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from remoterun.agent.shared.environment import package_names
from remoterun.errors import UsageError
from remoterun.parsing import toml
from remoterun.source.tree import Source

_REDIRECTIONS = (">", ">>", ">|", "&>", "&>>")
_OPERATORS = frozenset("();<>|&")


def mentioned(command: str, workdir: str) -> list[str]:
    """The words of a shell line that may be paths of files, relative to the top folder of what is sent.

    `workdir`: where the command starts, relative to that folder. A word such as `--config=a.json` names `a.json`; what
    the command writes to, by `>`, does not count, nor does what lies outside the folder.
    """
    words = shlex.shlex(command, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    words.commenters = ""
    found: list[str] = []
    before = ""
    try:
        for word in words:
            text = word.partition("=")[2] if word.startswith("-") else word
            operator = not set(text) - _OPERATORS
            path = "" if operator else posixpath.normpath(posixpath.join(workdir, text))
            if before not in _REDIRECTIONS and path not in ("", ".", *found) and not path.startswith(("../", "/")):
                found.append(path)
            before = word
    except ValueError:  # a quote without its end: the shell will say so
        pass
    return found


NAMES = ("uv.lock", "requirements.txt", "pyproject.toml")
"""The most exact one first."""
MOST_BYTES = 4 << 20
_MOST_WORK = 1 << 23  # characters of conditions that are followed in a uv.lock, and 20 for each mention of a package
_USUAL = "/simple"
"""The path of the usual index and of its mirrors: the machine has its own setting for that."""


@dataclass(frozen=True)
class Requirements:
    """`path`: of the file in the source; `text`: what it lists, as a requirements file; `count`: of packages."""

    path: str
    text: str

    @property
    def count(self) -> int:
        return len(set(package_names(self.text)))


def listed_in(source: Source | None) -> Requirements | None:
    """What the project lists in the folder where its command starts, or else at the top of what is sent. A file that
    lists nothing, or can't be read, counts as absent."""
    files = {file.path: file.origin for file in source.files if file.kind == "file"} if source is not None else {}
    for folder in dict.fromkeys((source.workdir if source is not None else "", "")):
        for name in NAMES:
            path = posixpath.join(folder, name)
            if path in files:
                try:
                    with open(files[path], "rb") as file:
                        found = Requirements(path, as_requirements(name, file.read(MOST_BYTES + 1)))
                except (OSError, UsageError):
                    continue
                if found.count:
                    return found
    return None


def as_requirements(name: str, data: bytes) -> str:
    """The content of a file of that name as the text of a requirements file. Raises `UsageError`."""
    if len(data) > MOST_BYTES:
        raise UsageError(f"`{name}` has more than {MOST_BYTES >> 20} MiB", hint="--pip-req requirements.txt")
    try:
        text = data.decode("utf-8-sig")
        if not name.endswith((".toml", ".lock")):
            return text
        content = toml(text)
    except UnicodeDecodeError:
        raise UsageError(f"`{name}` is not UTF-8 text", hint="--pip-req requirements.txt")
    except ValueError as error:
        raise UsageError(f"`{name}` is not TOML: {error}", hint="--pip-req requirements.txt")
    try:
        lines = _locked(content) if name.endswith(".lock") else _dependencies(content)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UsageError(f"the packages of `{name}` can't be read: {error}", hint="--pip-req requirements.txt")
    return "".join(f"{line}\n" for line in lines)


def _dependencies(content: dict[str, Any]) -> list[str]:
    project = content.get("project", {})
    if "dependencies" in project.get("dynamic", []):
        raise ValueError("its build system makes the list")
    if "dependencies" not in project:
        raise ValueError("it has no [project] with dependencies")
    return [str(line) for line in project["dependencies"]]


# -- uv.lock


def _locked(content: dict[str, Any]) -> list[str]:
    """Each package that the project needs, with the conditions under which something names it. What names it under no
    condition hands on its own: a package may be installed where it is not needed, and none is missing."""
    packages = [package for package in content.get("package", []) if isinstance(package, dict)]
    waiting: list[tuple[dict[str, Any], tuple[str, ...], str]] = [(each, (), "") for each in packages if _own(each)]
    if not waiting:
        raise ValueError("it names no project")
    named: dict[str, list[dict[str, Any]]] = {}
    for each in packages:
        named.setdefault(each["name"], []).append(each)
    work = _MOST_WORK
    needed: dict[int, set[str]] = {}
    seen: set[tuple[int, tuple[str, ...], str]] = set()
    while waiting:
        package, extras, condition = waiting.pop()
        if (id(package), extras, condition) in seen:
            continue
        seen.add((id(package), extras, condition))
        needed.setdefault(id(package), set()).add(condition)
        edges = list(package.get("dependencies", []))
        for extra in extras:
            edges += package.get("optional-dependencies", {}).get(extra, [])
        work -= len(edges) * (20 + len(condition))
        if work < 0:
            raise ValueError("it has too many conditions")
        for edge in edges:
            exact = [field for field in ("version", "source") if field in edge]
            same = (each for each in named.get(edge["name"], ()) if all(edge[part] == each.get(part) for part in exact))
            found = next(same, None)
            if found is None:
                raise ValueError(f"{edge.get('name')} is not in it")
            waiting.append((found, tuple(edge.get("extra", ())), str(edge.get("marker", condition))))
    wanted = [package for package in packages if id(package) in needed and not _own(package)]
    indexes = dict.fromkeys(index for package in wanted if (index := package["source"].get("registry")))
    others = [index for index in indexes if "://" in index and urlsplit(index).path.rstrip("/") != _USUAL]
    lines = [f"--extra-index-url {index}" for index in others]
    return lines + [_line(package, needed[id(package)]) for package in wanted]


def _own(package: dict[str, Any]) -> bool:
    """Whether it is the project itself, or a member of its workspace: their files are sent, and not installed."""
    return any(kind in package["source"] for kind in ("virtual", "editable"))


def _line(package: dict[str, Any], conditions: set[str]) -> str:
    source, name = package["source"], package["name"]
    if "registry" in source:
        exact = f"{name}=={package['version']}"
    elif "git" in source:
        address, _, commit = source["git"].partition("#")
        exact = f"{name} @ git+{address.partition('?')[0]}" + (f"@{commit}" if commit else "")
    elif "url" in source:
        exact = f"{name} @ {source['url']}"
    else:
        raise ValueError(f"{name} is a folder of this machine")
    return exact if "" in conditions else f"{exact} ; {' or '.join(f'({each})' for each in sorted(conditions))}"
