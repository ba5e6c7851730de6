"""All that is printed. stdout is data; stderr is talk. Colours, bars and spinners only on a terminal."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from remoterun.agent.runs import FINAL, RunState
from remoterun.errors import RemoterunError
from remoterun.model import Run, Upload
from remoterun.transfer import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

_COLOURS = {
    RunState.COMPLETE: "32",
    RunState.FAILED: "31",
    RunState.RUNNING: "36",
    RunState.STOPPED: "33",
    RunState.KILLED: "33",
    RunState.INTERRUPTED: "33",
}
BAR_AFTER = 0.4
"""Seconds that a transfer may take before it gets a bar."""


# -- terminals


def is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def person_there() -> bool:
    """Whether somebody can be asked."""
    return is_terminal(sys.stdin) and is_terminal(sys.stderr)


def coloured(stream: Any) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE") or os.environ.get("FORCE_COLOR"):
        return True
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def paint(text: str, code: str, stream: Any = None) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if coloured(stream or sys.stderr) else text


# -- talk


def line(text: str) -> None:
    """One line of talk."""
    with contextlib.suppress(BrokenPipeError):
        print(text, file=sys.stderr, flush=True)


def warning(text: str) -> None:
    line(f"{paint('warning:', '33')} {clean(text)}")


def error(problem: RemoterunError) -> None:
    """An error of ours: one line, its evidence, its hint."""
    line(f"{paint('error:', '31;1')} {clean(problem.message)}")
    if problem.evidence:
        for text in problem.evidence.splitlines():
            line(f"  {paint(clean(text), '2')}")
    hint(problem.hint)


def fault(problem: BaseException) -> None:
    """An error that nobody raised on purpose."""
    line(f"{paint('error:', '31;1')} remoterun has a fault: {type(problem).__name__}: {clean(str(problem))}")
    hint("REMOTERUN_DEBUG=1 before the command shows where")


def hint(text: str | None) -> None:
    if text:
        line("")
        for number, part in enumerate(text.splitlines()):
            line(f"{paint('hint:', '36') if number == 0 else '     '} {clean(part)}")


def usage(problem: Any, words: Sequence[str]) -> None:
    """An error in what was typed, from the parser, in our form."""
    message, meant = problem.format_message(), ""
    for pattern in (r"\.? Did you mean (.*)\?$", r" \(Possible options: (.*)\)$"):
        found = re.search(pattern, message, re.DOTALL)
        if found:
            message, meant = message[: found.start()], found[1].replace("'", "`")
    message = re.sub(r"'([^']*)'", r"`\1`", message.rstrip("."))
    message = re.sub(r"^(No such option: )(.*)", r"\1`\2`", message)
    message = re.sub(r": Input should be a valid (\w+).*", r": it is no \1", message)
    message = re.sub(r": Input should be", r": it should be", message)
    message = re.sub(r"^Got unexpected extra argument\(?s?\)? \((.*)\)$", r"too many arguments: `\1`", message)
    line(f"{paint('error:', '31;1')} {clean(message[:1].lower() + message[1:])}")
    context = getattr(problem, "ctx", None)
    command = " ".join(["remoterun", *(word for word in words[:1] if not word.startswith("-"))])
    manual = f"{context.command_path if context is not None else command} --help"
    if meant:
        meant = meant if "`" in meant else ", ".join(f"`{option}`" for option in meant.split(", "))
        hint(f"did you mean {meant}? {manual} lists them all")
    else:
        hint(manual)


def ask(question: str, default: bool) -> bool:
    """Ask a person; Enter means `default`."""
    choices = "[Y/n]" if default else "[y/N]"
    while True:
        word = _answer(f"{question} {choices} ").lower()
        if word in ("", "y", "yes", "n", "no"):
            return default if not word else word[0] == "y"


def ask_text(question: str, default: str) -> str:
    """Ask a person for a word; Enter means `default`."""
    return _answer(f"{question} [{default}] ") or default


def _answer(prompt: str) -> str:
    """What a person types; the end of stdin is as good as ^C."""
    sys.stderr.write(prompt)
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise KeyboardInterrupt
    return answer.strip()


def clean(text: str) -> str:
    """`text` as one line that does nothing to a terminal: what can't be seen is escaped. Names, commands and logs'
    tails come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _seen(char) for char in text)


def _seen(char: str) -> str:
    return {"\n": "⏎ ", "\t": "    "}.get(char) or char.encode("unicode_escape").decode()


# -- data


class ReaderGone(Exception):
    """Nobody reads stdout any more: `remoterun logs 16 | head`."""


def out(text: str) -> None:
    """One line of data."""
    with _writing():
        print(text)


def out_json(value: Any) -> None:
    out(json.dumps(value, indent=2))


def out_bytes(data: bytes) -> None:
    """Bytes of data, at once."""
    with _writing():
        sys.stdout.flush()
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]


def finish() -> None:
    """Write what is still buffered."""
    with _writing():
        sys.stdout.flush()


def drop_stdout() -> None:
    """From now on stdout is written nowhere: what is buffered must not raise once more when we end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        drop_stdout()
        raise ReaderGone
    except OSError as error:
        drop_stdout()
        raise RemoterunError(f"stdout can't be written: {error.strerror}")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), colours: Any = None) -> None:
    """A table: aligned; the last column may be cut to the terminal's width, never elsewhere."""
    if not rows:
        return
    width = _terminal_width(sys.stdout)
    cells = [list(heads), *[[clean(text) for text in row] for row in rows]]
    widths = [max(columns(row[column]) for row in cells) for column in range(len(heads))]
    room = width - sum(widths[:-1]) - 2 * (len(heads) - 1) if width else None
    for number, row in enumerate(cells):
        parts = []
        for column, text in enumerate(row):
            last = column == len(row) - 1
            if last and room is not None:
                text = shortened(text, max(room, 10))
            space = " " * (widths[column] - columns(text))
            padded = space + text if column in right else text if last else text + space
            if number == 0:
                padded = paint(padded, "1", sys.stdout)
            elif colours is not None:
                code = colours(number - 1, column)
                padded = paint(padded, code, sys.stdout) if code else padded
            parts.append(padded)
        out("  ".join(parts).rstrip())


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.category(char) in ("Mn", "Me") for char in text)


def shortened(text: str, room: int) -> str:
    """`text`, cut with an ellipsis where it takes more than `room` columns."""
    if columns(text) <= room:
        return text
    while columns(text) > room - 1:
        text = text[: len(text) - max((columns(text) - room) // 2, 1)]
    return text + "…"


def _terminal_width(stream: Any) -> int | None:
    if not is_terminal(stream):
        return None
    with contextlib.suppress(OSError, ValueError):
        return os.get_terminal_size(stream.fileno()).columns or None
    return None


def size(count: float) -> str:
    """Bytes for people: 308 KB, 1.2 GB (powers of 1000)."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    if unit == "bytes":
        return f"{int(count)} byte{'' if count == 1 else 's'}"
    return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"


def duration(seconds: float) -> str:
    """A stretch of time for people: 0.4 s, 45 s, 17 min 3 s, 2 h 5 min, 3 d 4 h."""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def ago(then: float | None, now: float | None = None) -> str:
    """A moment for people: `2 hours ago`, a date after 14 days."""
    if then is None:
        return ""
    seconds = (time.time() if now is None else now) - then
    if seconds < 5:
        return "now"
    for limit, divisor, unit in (
        (90, 1, "second"),
        (5400, 60, "minute"),
        (129600, 3600, "hour"),
        (1209600, 86400, "day"),
    ):
        if seconds < limit:
            count = round(seconds / divisor)
            return f"{count} {unit}{'' if count == 1 else 's'} ago"
    return datetime.datetime.fromtimestamp(then).strftime("%Y-%m-%d")


def files(count: int) -> str:
    return f"{count} file{'' if count == 1 else 's'}"


# -- runs


def runs_table(runs: Sequence[Run], verbose: bool) -> None:
    rows = []
    for run in runs:
        row = [str(run.number), state_text(run), run.machine.name, _times(run)]
        if verbose:
            row += [run.engine or "", ", ".join(run.labels), (run.description or "")[:40]]
        rows.append([*row, run.command])
    heads = ["RUN", "STATE", "MACHINE", "WHEN"] + (["ENGINE", "LABELS", "DESCRIPTION"] if verbose else []) + ["COMMAND"]

    def colours(row: int, column: int) -> str | None:
        return _COLOURS.get(runs[row].state) if column == 1 else None

    table(heads, rows, right=(0,), colours=colours)


def state_text(run: Run) -> str:
    """The state with what a reader wants to know of it."""
    text = run.state.value
    if run.final:
        return f"{text} ({run.code})" if run.code not in (None, 0) else text
    if not run.reachable:
        return f"{text}, last seen {ago(run.last_seen or run.created)}"
    return f"{text}, stopping" if run.stopping else text


def _times(run: Run) -> str:
    if run.ended is not None:
        lasted = f", took {duration(run.ended - run.started)}" if run.started is not None else ""
        return ago(run.ended) + lasted
    if run.started is not None:
        return f"for {duration(time.time() - run.started)}"
    return ago(run.created)


def ending(run: Run) -> None:
    """How a run ended, in one line or two, and what to do with what it left."""
    lasted = f" after {duration(run.ended - run.started)}" if run.ended and run.started else ""
    status = f", exit status {run.code}" if run.code is not None else ""
    mark = paint("✓", "32") if run.state is RunState.COMPLETE else paint("✗", "31")
    why = "" if run.state is RunState.COMPLETE or run.words is None else f": {run.words}"
    line(f"{mark} run {run.number} {run.state.value}{lasted}{status}{why}")
    if run.message:
        line(f"  {clean(run.message)}")
    if run.outputs and run.outputs.get("files"):
        saved = f"{files(run.outputs['files'])} saved ({size(run.outputs['size'])})"
        line(f"  {saved}: remoterun ls runs/{run.number} · remoterun cp runs/{run.number}")


def detached(run: Run) -> None:
    """After ^C: what goes on, and the three lines."""
    line("")
    line(f"run {run.number} goes on without this terminal")
    line(f"  remoterun logs {run.number}   shows its log again, live until it ends")
    line(f"  remoterun stop {run.number}   ends it; its outputs are saved")
    line(f"  remoterun kill {run.number}   ends it at once; its outputs are lost")


def upload_row(upload: Upload) -> list[str]:
    return [
        f"uploads/{upload.name}",
        f"v{upload.version}",
        size(upload.size),
        files(upload.files),
        ago(upload.created),
        upload.machine,
    ]


class Steps:
    """The states of a run as they are passed: a spinner with the time on a terminal, a line each where it matters."""

    def __init__(self) -> None:
        self._status: Any = None
        self._text = ""
        self._since = 0.0
        self._lively = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"

    def at(self, text: str) -> None:
        """Now at this step."""
        self.clear()
        self._text, self._since = text, time.monotonic()
        if self._lively:
            self._spin(text)
        else:
            line(f"- {text}")

    def detail(self, text: str) -> None:
        """What this step is doing; shown on a terminal only."""
        if self._lively and self._status is not None:
            room = (_terminal_width(sys.stderr) or 80) - columns(self._text) - 4
            self._status.update(f"{self._text} [dim]{_escape(shortened(clean(text), max(room, 10)))}[/dim]")

    def say(self, text: str) -> None:
        """A line that stays."""
        spinning = self._status is not None
        self._halt()
        line(f"  {clean(text)}")
        if spinning:
            self._spin(self._text)

    def clear(self) -> None:
        """End the step; on a terminal a line with the time it took stays."""
        if self._status is not None:
            self._halt()
            line(f"{paint('✓', '32')} {self._text} {paint(duration(time.monotonic() - self._since), '2')}")
        self._text = ""

    def abandon(self) -> None:
        """End without saying that the step was done."""
        self._halt()

    def _spin(self, text: str) -> None:
        from rich.console import Console

        console = Console(stderr=True, highlight=False, no_color=not coloured(sys.stderr))
        self._status = console.status(text)
        self._status.start()

    def _halt(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


@contextlib.contextmanager
def progress(json_events: bool = False) -> Iterator[Progress]:
    """A progress that is shown: a bar with size, rate and time left on a terminal, once it takes a while; a line at
    most every 10 s without one; JSON lines on stderr for programs."""
    display = _Display(json_events)
    try:
        yield Progress(display.report)
    finally:
        display.stop()


class _Display:
    def __init__(self, json_events: bool) -> None:
        self._json = json_events
        self._lively = is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb" and not json_events
        self._bars: Bars | None = None
        self._task: Any = None
        self._phase = ""
        self._begun = 0.0
        self._said = 0.0

    def report(self, state: Progress) -> None:
        now = time.monotonic()
        if state.phase != self._phase:
            self.stop()
            self._phase, self._begun, self._said = state.phase, now, now
        if self._json:
            if now - self._said > 0.2 or state.bytes_done == state.bytes_total:
                self._said = now
                line(json.dumps({name: value for name, value in state.__dict__.items() if name != "report"}))
        elif self._lively:
            self._show(state, now)
        elif now - self._said > 10:
            self._said = now
            rate = state.bytes_done / max(now - self._begun, 0.001)
            line(f"{state.phase}: {size(state.bytes_done)} of {size(state.bytes_total)}, {size(rate)}/s")

    def _show(self, state: Progress, now: float) -> None:
        if self._bars is None:
            if now - self._begun < BAR_AFTER or not state.bytes_total:
                return
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
            from rich.progress import Progress as RichProgress

            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(state.phase, total=state.bytes_total)
        if now - self._said > 0.05 or state.bytes_done == state.bytes_total:
            self._said = now
            self._bars.update(self._task, completed=state.bytes_done, total=state.bytes_total)

    def stop(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None
        self._phase = ""


# -- listings


def name(path: str) -> str:
    """A path for people: quoted where a terminal would not show it as it is."""
    from remoterun.agent.tree import show

    return show(path)


def word(text: str) -> str:
    """Text as one word of a shell line."""
    import shlex

    return shlex.quote(text)


def uploaded(done: Any, as_json: bool) -> None:
    """What an upload did, its path, and the line that mounts it."""
    upload = done.upload
    for text in done.warnings:
        warning(text)
    if as_json:
        out_json({**upload.record(), "created": done.created, "bytes_sent": done.sent.size})
        return
    path = f"uploads/{upload.name}"
    content = f"{files(upload.files)}, {size(upload.size)}"
    if not done.created:
        line(f"Nothing to send: {path} has this content already (version {upload.version}, {content})")
    else:
        already = f", {size(done.sent.already)} of it there already" if done.sent.already else ""
        line(f"Uploaded {content}{already}: {path} (version {upload.version}) on {upload.machine}")
    line(f"  remoterun run --mount {path}:data COMMAND   finds it in ./data")
    out(path)


def fetched(result: Any) -> None:
    for text in result.warnings:
        warning(text)
    line(f"{paint('✓', '32')} Copied {files(result.files)} ({size(result.size)})")
    if result.skipped:
        line(f"  Kept {files(len(result.skipped))} that existed")
    if result.unchanged:
        line(f"  {files(result.unchanged)} {'was' if result.unchanged == 1 else 'were'} here already")


def uploads(found: Sequence[Upload], as_json: bool) -> None:
    if as_json:
        out_json([upload.record() for upload in found])
    elif found:
        table(["UPLOAD", "VERSION", "SIZE", "FILES", "WHEN", "MACHINE"], [upload_row(upload) for upload in found], (2,))
    else:
        line("There is no upload yet. Make one: remoterun upload PATH --name NAME")


def run_resources(runs: Sequence[Run], as_json: bool) -> None:
    if as_json:
        out_json([run.record() for run in runs])
        return
    rows = []
    for run in runs:
        saved = run.outputs or {}
        kept = f"{files(saved.get('files', 0))}, {size(saved.get('size', 0))}" if run.final else "in work"
        rows.append([f"runs/{run.number}", state_text(run), kept, run.command])
    if rows:
        table(["RESOURCE", "STATE", "OUTPUTS", "COMMAND"], rows)
    else:
        line('There is no run with files yet. Start one: remoterun run "echo hello > file"')


def manifest(resource: str, tree: Any, about: dict[str, Any], recursive: bool, as_json: bool) -> None:
    """The files below a resource: one level, folders with what is in them, or every one."""
    if as_json:
        entries = [
            {"path": e.path, "kind": e.kind, "size": e.size, "sha256": e.digest or None, "target": e.target or None}
            for e in tree.entries
        ]
        out_json(
            {"resource": resource, "live": bool(about.get("live")), "folder": about.get("folder"), "entries": entries}
        )
        return
    if not tree.entries:
        goes_on = about.get("about", {}).get("state") not in (None, *(state.value for state in FINAL))
        line(f"{resource} holds no files{' yet' if goes_on else ''}")
        return
    rows: dict[str, list[Any]] = {}
    for entry in tree.entries:
        first, slash, _ = entry.path.partition("/")
        shown = entry.path if recursive or not slash else first + "/"
        if entry.kind == "d":
            shown = shown.rstrip("/") + "/"
        row = rows.setdefault(shown, [0, 0, entry.target if entry.kind == "l" and not shown.endswith("/") else ""])
        row[0] += entry.size
        row[1] += entry.kind == "f"
    for shown, (total, count, target) in rows.items():
        inside = f"  ({files(count)})" if shown.endswith("/") else ""
        arrow = f" -> {name(target)}" if target else ""
        out(f"{size(total):>10}  {name(shown)}{arrow}{inside}")


def run_info(run: Run, details: dict[str, Any]) -> None:
    """All that is known of a run, a line each."""
    spec = details["spec"] or {}
    git = spec.get("git") or {}
    environment = spec.get("environment", {})
    code = "" if run.code is None else f", exit status {run.code}"
    why = f": {run.words}" if run.words and run.state is not RunState.COMPLETE else ""
    dirty = ", with uncommitted changes" if git.get("dirty") else ""
    rows = [
        ("run", f"{run.number} ({run.key})"),
        ("state", state_text(run).partition(" (")[0] + code + why),
        ("message", run.message),
        ("note", run.note if not run.final else None),
        ("command", run.command),
        ("description", run.description),
        ("labels", ", ".join(run.labels)),
        ("machine", f"{run.machine.name} ({run.machine.host or 'this machine'})"),
        ("engine", run.engine),
        ("gpus", str(spec["gpus"]) if spec.get("gpus") else None),
        ("commit", f"{git['commit'][:12]} ({git.get('branch') or 'no branch'}{dirty})" if git.get("commit") else None),
        ("remote", git.get("remote")),
        ("started in", spec.get("workdir") or None),
        ("mounts", "\n".join(f"{mount['typed']} at {mount['path']}" for mount in spec.get("mounts", []))),
        ("variables", ", ".join(spec.get("asked_env", []))),
        ("image", environment.get("image")),
        ("apt", ", ".join(environment.get("apt", []))),
        ("pip", ", ".join(environment.get("pip", []))),
        ("requirements", environment.get("requirements")),
        ("timeout", duration(spec["timeout"]) if spec.get("timeout") else None),
        ("created", _moment(run.created)),
        ("started", _moment(run.started)),
        ("ended", _moment(run.ended)),
        ("duration", duration(run.ended - run.started) if run.ended and run.started else None),
        ("outputs", f"{files(run.outputs['files'])}, {size(run.outputs['size'])}" if run.outputs else None),
        ("folder", details.get("folder")),
    ]
    for head, text in rows:
        if text:
            first, *rest = str(text).split("\n")
            out(f"{head:<14}{clean(first)}")
            for part in rest:
                out(f"{'':<14}{clean(part)}")


def _moment(then: float | None) -> str | None:
    if then is None:
        return None
    return datetime.datetime.fromtimestamp(then).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")


def machines(found: Sequence[Any], default: str, aliases: Sequence[str], as_json: bool) -> None:
    if as_json:
        out_json([{**machine.record(), "default": machine.name == default} for machine in found])
        return
    rows = [
        [
            ("* " if machine.name == default else "  ") + machine.name,
            machine.host or "this machine",
            machine.engine,
            str(machine.gpus),
        ]
        for machine in found
    ]
    table(["  MACHINE", "HOST", "ENGINE", "GPUS"], rows, (3,))
    others = [alias for alias in aliases if alias not in {machine.name for machine in found}]
    if others:
        line(f"also, from your ssh configuration: {', '.join(others[:12])}")
    line("remoterun machines add NAME user@host adds one; * is the default")


def checks(machine: Any, found: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Each check green or red, each red one with the command that mends it."""
    if as_json:
        out_json([{key: check.get(key) for key in ("name", "ok", "detail", "fix")} for check in found])
        return
    width = max(len(check["name"]) for check in found)
    for check in found:
        ok = check["ok"]
        mark = (
            paint("✓", "32", sys.stdout)
            if ok
            else paint("–", "2", sys.stdout)
            if ok is None
            else paint("✗", "31", sys.stdout)
        )
        out(f"{mark} {check['name']:<{width}}  {clean(check['detail'])}".rstrip())
        if ok is False and check.get("fix"):
            for number, part in enumerate(str(check["fix"]).splitlines()):
                out(f"  {'':<{width}}  {'fix: ' if number == 0 else '     '}{part}")
