"""What the program says, as files under tests/recorded that `pytest --record` writes anew.

A test that asks for `recorded` hands it what was printed. After the test's last line the whole is compared with
`recorded/FOLDER/MODULE/TEST.txt`; a difference fails the test. A developer who changed a sentence runs the test with
`--record` and reads the diff. What differs between two runs of the same test is replaced by marks, such as `<time>`.
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent
FOLDER = ROOT / "recorded"
Done = subprocess.CompletedProcess[str]

PATHS = [
    (r"{}(?:/popen-gw\d+)?/[\w.\[\]-]+", "<tmp>"),
    (re.escape(str(ROOT.parent)), "<repo>"),
    (r"\b(today|tomorrow|yesterday) \d\d:\d\d", "<moment>"),
    (r"\b\d+ d \d+ h ago", "<time> ago"),
    (r"(?<=is not TOML: ).*", "<why>"),  # each Python has words of its own
]
"""For where and when any test runs."""
MARKS = [
    (r"\b[0-9a-hjkmnp-tv-z]{26}\b", "<key>"),
    (r"SHA256:[\w+/]{20,}", "SHA256:<key>"),
    (r"\b[0-9a-f]{7,64}\b", "<hash>"),
    (r"(?<![\w./-])[\w./-]+/python3[\w.]* is Python [\d.]+", "<a python>"),  # a line of 1 MB is read once
    (r"\b\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d)?(\.\d+)?Z?)?", "<time>"),
    (r"(\b\d+\.\d+|(?<=after )\d+) (ms|s|min)\b( \d+ s\b)?", "<time>"),  # such as `in 2 s` is what somebody set
    (r"\b\d+(\.\d+)? ?(s|m|min|h|d|seconds?|minutes?)( \d+ s)? ago\b", "<time> ago"),
    (r"\b\d+(\.\d+)? [kKMG]?B/s\b", "<rate>"),
    (r"(127\.0\.0\.1|localhost|\[::1\])(:| port )\d{4,5}\b", r"\1\2<port>"),
    (rf"(?<=@){re.escape(socket.gethostname())}\b", "<host>"),
    (r"(?<=<moment>, in )\d+ \w+( \d+ \w+)?", "<time>"),
    (r"\b(it cost|on top of) <?\$[\d.]+", r"\1 <sum>"),
    (r"\bhas cost <?\$0\.00\d+", "has cost <sum>"),  # what a host of seconds costs
    (r" {2,}", "  "),  # columns are as wide as what stands in them
]
"""For what depends on the machine, the moment and the order of tests. Unit tests, in which nothing does, keep all but
paths as they are."""


MESSAGE = re.compile(r"^error: (.*)$", re.MULTILINE)
HINT = re.compile(r"^hint: (.*)$", re.MULTILINE)
PROGRESS = re.compile(r"^[✓✗] (Running|Preparing|Waiting) .*\n", re.MULTILINE)
"""Whether it is shown depends on the machine's speed."""
TRACEBACK = re.compile("Traceback|has a fault")


def checked(done: Done) -> Done:
    """A command that was refused in the way that every one is."""
    assert done.returncode in (2, 125) and not TRACEBACK.search(done.stderr), done.stderr
    assert done.stdout == "", "an error is not data"
    said = MESSAGE.search(done.stderr)
    assert said and not said[1].endswith("."), f"no full stop: {done.stderr}"
    assert len(HINT.findall(done.stderr)) <= len(MESSAGE.findall(done.stderr)), f"two hints: {done.stderr}"
    return done


def shortened(line: str) -> str:
    """A line that is far longer than a person reads, with its length."""
    return line if len(line) < 1000 else f"{line[:100]}… ({len(line)} characters)"


class Recorded:
    """What one test has heard, in the order in which it was said."""

    def __init__(self, item: pytest.Function, scratch: Path) -> None:
        module, name = item.path.relative_to(ROOT).with_suffix(""), getattr(item, "originalname", item.name)
        case = re.sub(r"[^\w.-]+", "-", item.callspec.id) if hasattr(item, "callspec") else ""
        self.file = FOLDER / module / f"{name}{'-' if case else ''}{case}.txt"
        self.renew = bool(item.config.getoption("--record"))
        self._command = f"pytest {item.nodeid.partition('[')[0]} --record"
        self._marks = [(pattern.format(re.escape(str(scratch))), mark) for pattern, mark in PATHS]
        if module.parts[0] != "unit":
            self._marks += MARKS
        self._words: dict[str, str] = {}
        self._said: list[str] = []

    def mark(self, text: object, name: str) -> None:
        """`<name>` stands for this text from now on."""
        self._marks.insert(len(PATHS), (rf"(?<![\w.]){re.escape(str(text))}(?!\w)", f"<{name}>"))

    def run(self, number: object, name: str = "run") -> None:
        """`<name>` stands for this number where it is a run's."""
        self._words[str(number)] = f"<{name}>"
        before = r"(\bruns?[ /-]|^1\| +|\bremoterun [a-z]+ )"
        self._marks.insert(len(PATHS), (rf"{before}{number}(?!\w)", rf"\1<{name}>"))

    def same(self, text: object, name: str = "") -> None:
        """This was said; `name` is its case, if there are several. Of an error, all that it has for its reader."""
        if isinstance(text, BaseException):
            parts = {part: getattr(text, part, None) for part in ("code", "evidence", "hint")}
            rest = [f"{part}: {value}" for part, value in parts.items() if value]
            text = "\n".join([f"{type(text).__name__}: {text}", *rest])
        shown = "".join(each if each.isprintable() or each == "\n" else f"\\x{ord(each):02x}" for each in str(text))
        for pattern, mark in self._marks:
            shown = re.sub(pattern, mark, shown, flags=re.MULTILINE)
        lines = [shortened(line.rstrip()) for line in shown.strip("\n").split("\n")]
        self._said.append("\n".join([f"== {name}", *lines] if name else lines))

    def each(self, texts: Mapping[str, object]) -> None:
        for name, text in texts.items():
            self.same(text, name)

    @contextmanager
    def raises(self, kind: type[BaseException], name: str = "") -> Iterator[None]:
        """As pytest.raises, and the error is recorded."""
        with pytest.raises(kind) as caught:
            yield
        self.same(caught.value, name)

    def done(self, words: tuple[str, ...], done: Done) -> None:
        """A command has ended: what it wrote to stdout, behind 1|, and to stderr, behind 2|."""
        said = {1: done.stdout, 2: PROGRESS.sub("", done.stderr)}
        lines = [f"{number}| {line}" for number, text in said.items() if text for line in text.rstrip("\n").split("\n")]
        status = [f"status {done.returncode}"] if done.returncode else []
        typed = shlex.join(self._words.get(word, word) for word in words)
        self.same("\n".join([f"$ remoterun {typed}", *lines, *status]))

    def commands(self, run: Callable[..., Any]) -> Callable[..., Any]:
        """`run`, which starts a command, with its words and all that it writes recorded."""

        def heard(*words: str, **options: Any) -> Any:
            done = run(*words, **options)
            self.done(words, done)
            return done

        return heard

    def refused(self, run: Callable[..., Any], status: int, *words: str, **options: Any) -> Done:
        """Run a command that has to be refused with this status."""
        done: Done = self.commands(run)(*words, status=status, **options)
        return checked(done)

    def play(self, run: Callable[..., Any]) -> None:
        """Run the command lines that stand in the file, each behind `$ remoterun`: a new one is written there."""
        for line in re.findall(r"^\$ remoterun (.*)$", self.file.read_text(), re.MULTILINE):
            words = tuple(shlex.split(line))
            self.done(words, run(*words, status=None))

    def cases(self, say: Callable[[str], object], error: type[BaseException] | None = None) -> None:
        """What `say` answers to each title that stands in the file behind `==`, or the error that it has to raise. A
        title in double quotes is JSON, for text of several lines."""
        for title in re.findall(r"^== (.*)$", self.file.read_text(), re.MULTILINE):
            text = json.loads(title) if title.startswith('"') else title
            with nullcontext() if error is None else self.raises(error, title):
                self.same(say(text), title)

    def compare(self) -> None:
        """The end of the test."""
        if not self._said:
            return
        said = "\n\n".join(self._said) + "\n"
        known = self.file.read_text() if self.file.exists() else ""
        if said == known:
            return
        if self.renew:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(said)
            return
        lines = difflib.unified_diff(known.splitlines(), said.splitlines(), "recorded", "said", lineterm="")
        diff = "\n".join(lines)
        pytest.fail(
            f"not as {self.file.relative_to(ROOT.parent)} has it:\n{diff}\nhint: {self._command}", pytrace=False
        )


HEARD = pytest.StashKey[Recorded]()
"""What `conftest.py` compares once the test has passed."""


@pytest.fixture
def recorded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    scratch = tmp_path_factory.getbasetemp()
    heard = Recorded(request.node, scratch.parent if scratch.name.startswith("popen-") else scratch)
    request.node.stash[HEARD] = heard
    return heard
