"""Which modules the code that a command starts imports. Code is read, never run."""

from __future__ import annotations

import ast
import json
import posixpath
import re
import shlex
from dataclasses import dataclass

from remoterun.source.tree import Source

MOST_BYTES = 1 << 20
"""Of one file: a longer one is not read."""
_MOST_IN_ALL = 3 << 20
"""Bytes, with 4,000 for each file, and more for what takes long to parse: all takes some seconds at the most."""
_DEPTH = 4
"""Scripts that start scripts."""
_PYTHON = re.compile(r"(python|pypy)[\d.]*$")
_INSTALLERS = frozenset(("pip", "pip3", "uv", "conda", "mamba", "micromamba", "poetry", "pipenv", "pixi", "pdm"))
_RUNNERS = frozenset(("make", "just", "jupyter", "ipython", "pytest", "tox", "nox"))
_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
_ABOUT = ("-V", "-VV", "--version", "-h", "--help")
_OPERATORS = frozenset("();<>|&\n")
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_NOTEBOOK_MAGIC = re.compile(r"^[ \t]*[%!?].*$", re.MULTILINE)


@dataclass(frozen=True)
class Imported:
    """`modules`: the top names of what is imported and no file of the source provides; `optional`, those of them that
    are imported where an ImportError is caught. `whole`: nothing that the command starts was left unread. `installs`:
    the command installs packages by itself."""

    modules: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    whole: bool = True
    installs: bool = False


def imported(command: str, source: Source | None) -> Imported:
    """What the Python code imports that a shell line starts, in files of `source`, notebooks and scripts of the shell
    included."""
    scan = _Scan(source)
    scan.shell(command, source.workdir if source is not None else "", _DEPTH)
    return Imported(frozenset(scan.needed), frozenset(scan.optional - scan.needed), scan.whole, scan.installs)


class _Scan:
    def __init__(self, source: Source | None) -> None:
        files = source.files if source is not None else ()
        self._files = {file.path: file for file in files if file.kind == "file"}
        self._folders = {folder for path in self._files for folder in _parents(path)}
        self._seen: set[str] = set()
        self._roots: list[str] = []
        self._left = _MOST_IN_ALL
        self.needed: set[str] = set()
        self.optional: set[str] = set()
        self.whole = True
        self.installs = False

    # -- a line, or a script, of the shell

    def shell(self, text: str, folder: str, depth: int) -> None:
        lexer = shlex.shlex(_COMMENT.sub("", text), posix=True, punctuation_chars="();<>|&\n")
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
        self._add_root(folder)
        words: list[str] = []
        try:
            for word in [*lexer, "\n"]:
                if set(word) <= _OPERATORS:
                    folder = self._command(words, folder, depth)
                    words = []
                else:
                    words.append(word)
        except ValueError:  # a quote without its end
            self.whole = False

    def _command(self, words: list[str], folder: str, depth: int) -> str:
        """One command of a line, without what redirects it; the folder of the next one."""
        names = [posixpath.basename(word) for word in words]
        if names[:1] == ["cd"]:
            folder = _below(folder, (words[1:] or [""])[0])
            self._add_root(folder)
            return folder
        for word in words:
            if word.startswith("PYTHONPATH="):
                for part in word.partition("=")[2].split(":"):
                    self._add_root(_below(folder, part))
        self.installs = self.installs or bool(_INSTALLERS.intersection(names[:2]))
        self.whole = self.whole and not _RUNNERS.intersection(names)
        python = next((number for number, name in enumerate(names) if _PYTHON.match(name)), None)
        if python is not None:
            words = words[:python] + self._python(words[python + 1 :])
        for word in words:
            self._named(_below(folder, word), folder, depth)
        return folder

    def _python(self, words: list[str]) -> list[str]:
        """What follows the name of an interpreter; the words that may be files of its."""
        while words and words[0].startswith("-") and words[0] != "-":
            option, *words = words
            if option in _ABOUT:
                return []
            if option in _WITH_VALUE:
                words = words[1:]
            elif not option.startswith("--") and option[-1] in "cm" and words:  # also -uc
                if option[-1] == "c":
                    self._code(words[0], "")
                elif words[0].partition(".")[0] in _INSTALLERS:
                    self.installs = True
                else:
                    self._module(words[0], optional=False)
                    self._module(f"{words[0]}.__main__", optional=False, quiet=True)
                return words[1:]
        if words in ([], ["-"]):
            self.whole = False  # code from its standard input
        return words

    def _named(self, path: str, folder: str, depth: int) -> None:
        if path not in self._files:
            return
        if path.endswith(".py"):
            self._add_root(posixpath.dirname(path))
            self._file(path)
        elif path.endswith(".ipynb"):
            self._notebook(path)
        else:
            text = self._read(path, quiet=True)
            head = text[:80].partition("\n")[0]
            if head.startswith("#!") and "python" in head:
                self._add_root(posixpath.dirname(path))
                self._code(text, path)
            elif path.endswith((".sh", ".bash")) or (head.startswith("#!") and "sh" in head):
                if depth and path not in self._seen:
                    self._seen.add(path)
                    self.shell(text, folder, depth - 1)
                self.whole = self.whole and depth > 0

    # -- Python

    def _file(self, path: str) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        self._code(self._read(path), path)

    def _notebook(self, path: str) -> None:
        try:
            cells = json.loads(self._read(path))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        except (ValueError, LookupError, TypeError):
            self.whole = False
            return
        for text in code:
            self.installs = self.installs or bool(re.search(r"^[ \t]*[%!][ \t]*(pip|conda|uv)\b", text, re.MULTILINE))
            self._code(_NOTEBOOK_MAGIC.sub("", text), path)

    def _code(self, text: str, path: str) -> None:
        self._left -= 64 * text.count("{") + 16 * sum(map(text.count, "\n;,"))  # what takes long to parse
        try:
            if self._left < 0:
                raise ValueError
            found = _imports(ast.parse(text))
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.whole = False
            return
        package = posixpath.dirname(path)
        for node, optional in found:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._module(alias.name, optional)
            elif node.level:
                base = package
                for _ in range(node.level - 1):
                    base = posixpath.dirname(base)
                self._inside(
                    posixpath.join(base, *(node.module or "").split(".")), [alias.name for alias in node.names]
                )
            elif node.module:
                self._module(node.module, optional)
                for alias in node.names:
                    self._module(f"{node.module}.{alias.name}", optional, quiet=True)

    def _module(self, name: str, optional: bool, quiet: bool = False) -> None:
        """Read a module of the source, and the packages that it lies in; note the name of any other. `quiet`: what is
        named may be no module."""
        parts = name.split(".")
        for root in self._roots:
            top = posixpath.join(root, parts[0])
            if f"{top}.py" in self._files or top in self._folders:
                for count in range(1, len(parts) + 1):
                    self._inside(posixpath.join(root, *parts[:count]), [])
                return
        if not quiet:
            (self.optional if optional else self.needed).add(parts[0])

    def _inside(self, path: str, names: list[str]) -> None:
        path = posixpath.normpath(path)
        found = [f"{path}.py", f"{path}/__init__.py"]
        found += [f"{path}/{name}{end}" for name in names for end in (".py", "/__init__.py")]
        for file in found:
            file = file.removeprefix("./")
            if file in self._files:
                self._file(file)

    # -- files

    def _add_root(self, folder: str) -> None:
        if folder not in self._roots:
            self._roots.append(folder)

    def _read(self, path: str, quiet: bool = False) -> str:
        """Its text; "" for what can't be read, which counts as unread unless `quiet`."""
        file = self._files[path]
        try:
            self._left -= file.size + 4000
            if file.size > MOST_BYTES or self._left < 0:
                raise ValueError
            with open(file.origin, "rb") as stream:
                return stream.read(MOST_BYTES).decode("utf-8-sig")
        except (OSError, ValueError):
            self.whole = self.whole and quiet
            return ""


def _imports(tree: ast.AST) -> list[tuple[ast.Import | ast.ImportFrom, bool]]:
    """The imports of some code, each with whether it may fail; without those that only a type checker follows."""
    found: list[tuple[ast.Import | ast.ImportFrom, bool]] = []
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, optional = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append((node, optional))
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += [(child, optional) for child in node.orelse]
        elif isinstance(node, ast.Try) and any(_catches(handler) for handler in node.handlers):
            waiting += [(child, True) for child in node.body]
            waiting += [(child, True) for handler in node.handlers for child in handler.body]
            waiting += [(child, optional) for child in [*node.orelse, *node.finalbody]]
        elif not isinstance(node, ast.expr):
            waiting += [(child, optional) for child in ast.iter_child_nodes(node)]
    return found


def _catches(handler: ast.ExceptHandler) -> bool:
    text = ast.unparse(handler.type) if handler.type is not None else "Exception"
    return any(name in text for name in ("ImportError", "ModuleNotFoundError", "Exception"))


def _below(folder: str, path: str) -> str:
    """A path of the source; "" for its top."""
    path = posixpath.normpath(posixpath.join(folder, path))
    return "" if path == "." else path


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]
