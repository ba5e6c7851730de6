"""Word of a run's end, posted to the addresses that its user gave, by the host itself: no client need be there.

An address stays in the run folder until its server has taken the message, or until that is given up. Should we die
after the server took it and before that is noted, it gets the message again: its `id` is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import Any, Dict, Optional, Tuple
from urllib.parse import urlsplit

from ..shared import logs
from ..shared.api import WebhookAnswer
from ..shared.asked import duration
from ..shared.facts import RunStatus
from ..shared.files import unless_held
from ..shared.records import Record
from ..shared.spec import RunSpec
from ..shared.states import ENDINGS, Reason, RunState
from ..shared.webhooks import Webhooks, kind_of, place_of
from ..store.home import Home
from ..store.http_client import HttpClient, HttpError, login
from ..store.run_folder import RunFolder
from .ending import clean_up, note_once

PATIENCE = 600.0
"""Seconds for which an address is tried."""
SHORTEST, LONGEST = 2.0, 60.0
"""Seconds between two tries."""
POLL_EVERY = 0.5
"""Seconds between two looks whether the run was removed meanwhile."""
LINES, CHARACTERS = 10, 1500
"""Of the end of the log that is told. Discord takes 2,000 characters in all."""
MOST_ANSWER = 4096
_ESCAPE = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[ -/]*[0-~])")


class Notification(Record):
    """What is told: `facts` to programs, `title`, `text` and `log` to people; `good`: the run did well."""

    facts: Dict[str, Any]
    title: str
    text: str
    log: str
    good: bool


def send_messages(home: Home, run: RunFolder) -> None:
    """Post to all addresses of a run that has ended, and forget each. Blocks for minutes where one can't be reached.
    May be repeated: two processes don't post the same."""
    # The run was removed, or the disk is full: the next contact comes here again.
    with contextlib.suppress(OSError), unless_held(os.path.join(run.path, "webhooks.lock")) as lock:
        if lock is not None:
            _post_to_each(home, run)
            clean_up(home, run)


def _post_to_each(home: Home, run: RunFolder) -> None:
    left = run.webhooks()
    news = end_notification(run.spec(), run.status(), _end_of_log(run), left) if left.addresses else None
    deadline, pause = time.monotonic() + PATIENCE, SHORTEST
    while news is not None and left.addresses and run.exists():
        for shown, url in left.addresses.items():
            gone = time.monotonic() > deadline or time.time() > home.rental.last_moment()
            try:
                post(url, news)
            except HttpError as error:
                if error.passing and not gone:
                    note_once(run, "could not notify %s yet: %s; trying again" % (shown, error.message))
                    continue
                note_once(run, "could not notify %s: %s" % (shown, error.message))
            left = left._replace(addresses={name: at for name, at in left.addresses.items() if name != shown})
            run.save_webhooks(left)
        again = time.monotonic() + pause
        while left.addresses and time.monotonic() < again and run.exists():
            time.sleep(POLL_EVERY)
        pause = min(pause * 2, LONGEST)


def post(url: str, news: Notification) -> WebhookAnswer:
    """Post it once, in the words of the service. Raises `HttpError`; of the address it holds the host, and no more."""
    target, body = message(url, news)
    headers = {"Content-Type": "application/json", "User-Agent": "remoterun", **login(urlsplit(url))}
    data = json.dumps(body).encode()
    headers["Content-Length"] = str(len(data))
    try:
        with HttpClient() as http, http.ask("POST", target, headers, lambda: [data], len(data)) as answer:
            return WebhookAnswer(answer.status, _without(url, answer.read(MOST_ANSWER).decode("utf-8", "replace")))
    except UnicodeError:
        raise HttpError("its host has a name that can't be", 400)
    except HttpError as error:
        words = _without(url, error.answer) if error.status >= 400 else ""
        raise HttpError(_without(url, error.message) + (" (%s)" % words if words else ""), error.status)


def _without(url: str, said: str) -> str:
    """The beginning of what a server said, without what it repeats of the address."""
    parts = urlsplit(url)
    for word in sorted([url, parts.path, parts.query, *re.split("[/?&=]", url)], key=len, reverse=True):
        if len(word) > 3 and word not in (place_of(url), parts.scheme + ":"):
            said = said.replace(word, "…")
    return clean(" ".join(re.sub("<[^>]*>", " ", said).split()))[:80]


# -- what is told


def end_notification(spec: RunSpec, status: RunStatus, log: str, webhooks: Webhooks) -> Notification:
    """Of a run that has ended. `log`: the end of its log."""
    lasted = status.ended - status.started if status.ended and status.started else None
    cost = None
    if webhooks.price is not None and status.ended is not None:
        cost = round(webhooks.spent + max(status.ended - webhooks.began, 0.0) / 3600 * webhooks.price, 4)
    why = None if status.reason in (None, Reason.EXITED) else ENDINGS[Reason(status.reason)].words
    facts = {
        "id": "%s/%d" % (spec.key, spec.attempt),
        "event": "run_ended",
        "run": spec.number,
        "key": spec.key,
        "state": status.state.value,
        "reason": status.reason and status.reason.value,
        "why": why,
        "exit_status": status.code,
        "message": status.message,
        "machine": spec.machine,
        "command": spec.command,
        "description": spec.description,
        "labels": list(spec.labels),
        "created": _iso(spec.created),
        "started": _iso(status.started),
        "ended": _iso(status.ended),
        "duration": None if lasted is None else round(lasted, 1),
        "cost": cost,
        "log": log,
    }
    title = "run %d on %s: %s" % (spec.number, spec.machine, status.state.value)
    if status.code not in (None, 0):
        title += ", exit status %d" % status.code
    lines = [spec.command, why, status.message]
    lines.append(None if lasted is None else "it took " + duration(lasted))
    lines.append(None if cost is None else "it cost $%.2f" % cost)
    text = "\n".join(clean(line) for line in lines if line)
    return Notification(facts, clean(title), text, log, status.state is RunState.COMPLETE)


def alert_notification(spec: RunSpec, attempt: int, number: int, words: str, well: bool, moment: float) -> Notification:
    """Of something that is wrong with a run that goes on, or is `well` again; the `number`-th of its attempt."""
    facts = {
        "id": "%s/%d/%d/alert-%d" % (spec.key, spec.attempt, attempt, number),
        "event": "run_alert",
        "run": spec.number,
        "key": spec.key,
        "alert": words,
        "well": well,
        "time": _iso(moment),
        "machine": spec.machine,
        "command": spec.command,
        "description": spec.description,
        "labels": list(spec.labels),
    }
    title = "run %d on %s%s: %s" % (spec.number, spec.machine, " is well again, after" if well else "", words)
    return Notification(facts, clean(title), clean(spec.command), "", well)


def sample_notification(host: str) -> Notification:
    """A message that says nothing but that it came."""
    text = "a test from %s: word of your runs comes here" % host
    return Notification({"id": "test", "event": "test", "message": text}, "remoterun", text, "", True)


def message(url: str, news: Notification) -> Tuple[str, Dict[str, Any]]:
    """(the address to post to, the JSON that the service takes)."""
    kind = kind_of(url)
    fence = "\n```\n%s\n```" % news.log.replace("```", "'''") if news.log else ""
    if kind == "slack":  # it takes <!channel> for a call to everybody, unless it is escaped
        text = "*%s*\n%s%s" % (news.title, news.text, fence)
        return url, {"text": text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")}
    if kind == "discord":
        text = "**%s**\n%s" % (news.title, news.text[: 1900 - len(news.title) - len(fence)])
        return url, {"content": (text + fence)[:2000], "allowed_mentions": {"parse": []}}
    if kind == "ntfy":
        server, topic = _ntfy(url)
        text = news.text + ("\n\n" + news.log if news.log else "")
        tag = "white_check_mark" if news.good else "x"
        return server, {"topic": topic, "title": news.title, "message": text or news.title, "tags": [tag]}
    return url, dict(news.facts, text=news.title + ("\n" + news.text if news.text else ""))


def clean(text: str) -> str:
    """`text` on one line, without what a terminal would obey."""
    return "".join(char if char.isprintable() else " " for char in _ESCAPE.sub("", text))[:500]


def _ntfy(url: str) -> Tuple[str, str]:
    """(the address of the server, the topic). As ntfy's own programs take it, `?secure=false` means plain HTTP."""
    parts = urlsplit(url)
    words = [word for word in parts.query.split("&") if word and word != "secure=false"]
    plain = "secure=false" in parts.query.split("&") or parts.scheme == "http"
    query = "?" + "&".join(words) if words else ""
    return "%s://%s/%s" % ("http" if plain else "https", place_of(url), query), parts.path.strip("/")


def _end_of_log(run: RunFolder) -> str:
    """The last lines of the log, and of stderr where it is apart; of the build's where the command never started."""
    files = [run.log, run.err] if os.path.lexists(run.pid_file) else [run.build_log]
    text = "\n".join(logs.last_lines(file, LINES) for file in files)
    return "\n".join(clean(line).rstrip() for line in text.splitlines()).strip("\n")[-CHARACTERS:]


def _iso(moment: Optional[float]) -> Optional[str]:
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
