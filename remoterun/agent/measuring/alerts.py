"""What is wrong with a run by its own numbers: its user gets a message once, and once more when it is well again.

Always: a loss that is not a finite number, no new step for long, GPUs that the run holds and does not use. Then the
rules of its spec, whose form is `RULE` in shared/asked.py; one about steps, or about GPUs, takes the place of ours.
"""

from __future__ import annotations

import math
import threading
import time
from queue import SimpleQueue
from typing import Any, Dict, Iterator, List, Match, Optional, Sequence, Tuple

from ..shared.asked import RULE, seconds_of
from ..shared.measured import rank
from ..shared.spec import RunSpec
from ..store.run_folder import RunFolder
from .points import Stored

SILENT, TIMES, STEPS = 600.0, 20, 3
"""Seconds without a new step, or so many times what a step usually takes, once there were `STEPS`."""
IDLE, IDLE_FOR = 5.0, 900.0
"""Percent below which GPUs are idle, and seconds of that."""
MOST_WRONG, MOST_MESSAGES = 20, 50
"""Things that are wrong at a time, and messages of an attempt."""
CALM = 60.0
"""Seconds for which all must be well to be told so: a loss may cross a bound at each step."""
PAUSES = (1.0, 5.0, 20.0)
"""Seconds before each further try to post a message."""
CLOSING = 2.0
"""Seconds that messages under way have at the end."""


class Alerts:
    """Of one run. One thread uses it."""

    def __init__(self, run: RunFolder, spec: RunSpec, state: Dict[str, Any]) -> None:
        """`state`: {} at first, then what it was when it was saved last; it is changed in place."""
        self._run, self._spec, self._state = run, spec, state
        attempt = run.attempt()[0]
        if state.get("attempt") != attempt:
            state.clear()
            state.update(attempt=attempt, bad={}, since={}, wrong={}, found={}, unsent=[], messages=0)
            state.update(steps=0, step=None, stepped=None, gap=0.0, busy=0.0, sampled=0.0)
        self._rules = [found for found in map(RULE.match, spec.alerts) if found]
        self._posting: Optional[threading.Thread] = None
        self._posted: "SimpleQueue[Tuple[int, str]]" = SimpleQueue()
        self._fault = ""

    def check(self, points: Sequence[Stored], usage: Sequence[Stored], now: float, ended: bool) -> List[str]:
        """What is wrong now, each in words. `points` and `usage` are new since the last call; `ended`: no more will
        come. Does not block: messages are posted by a thread."""
        state = self._state
        state.setdefault("began", now)
        steps = state["steps"]
        for point in points:
            self._see(point, now)
        if state["steps"] > steps:
            if state["stepped"] is not None:
                gap = now - state["stepped"]
                state["gap"] += (gap - state["gap"]) * 0.2 if state["gap"] else gap
            state["stepped"] = now
        for sample in usage:
            if sample.series == "gpu" and not math.isnan(sample.value):
                state["sampled"] = sample.time
                if sample.value >= IDLE:
                    state["busy"] = sample.time
        self._report(dict(self._found(now)), now, ended)
        self._post()
        return [*state["wrong"].values(), *([self._fault] if self._fault else [])]

    def close(self) -> None:
        """Wait a little for messages under way. What is not sent then stays in the state."""
        if self._posting is not None:
            self._posting.join(CLOSING)
        self._note_posted()

    def _see(self, point: Stored, now: float) -> None:
        state = self._state
        if point.step != state["step"]:
            state["steps"] += 1
            state["step"] = point.step
        at = "%g at step %g" % (point.value, point.step)
        if math.isfinite(point.value):
            state["bad"].pop(point.series, None)
        elif rank(point.series)[0] <= 1 and len(state["bad"]) < MOST_WRONG:
            state["bad"].setdefault(point.series, at)
        for rule in self._rules:
            if rule["metric"] == point.series and not math.isnan(point.value):
                if _beyond(rule, point.value):
                    state["since"].setdefault(rule[0], [now, at])
                else:
                    state["since"].pop(rule[0], None)

    def _found(self, now: float) -> Iterator[Tuple[str, str]]:
        """(what of it is wrong, in words) for each such thing."""
        state = self._state
        for name, at in state["bad"].items():
            yield "finite " + name, "%s is %s" % (name, at)
        for rule in self._rules:
            since, at = state["since"].get(rule[0], (now, ""))
            if at and now - since >= seconds_of(rule["held"] or "0s"):
                yield rule[0], "%s: %s" % (rule[0], at)
        silent = now - (state["began"] if state["stepped"] is None else state["stepped"])
        last = "" if state["stepped"] is None else "; the last one was %g" % state["step"]
        slow = max(SILENT, TIMES * state["gap"]) if state["steps"] >= STEPS else math.inf
        idle = state["sampled"] - max(state["busy"], state["began"])
        for kind, lasted, ours, words in (
            ("silent", silent, slow, "no new step for %%s%s" % last),
            ("idle", idle, IDLE_FOR, "the GPU is idle for %s"),
        ):
            asked = {rule[0]: seconds_of(rule[kind]) for rule in self._rules if rule[kind]}
            for key, limit in (asked or {kind: ours}).items():
                if lasted >= limit:
                    yield key, words % ("%g min" % round(limit / 60, 1) if limit >= 60 else "%g s" % limit)

    def _report(self, found: Dict[str, str], now: float, ended: bool) -> None:
        wrong: Dict[str, str] = self._state["wrong"]
        last: Dict[str, float] = self._state["found"]
        last.update((key, now) for key in found if key in wrong)
        for key in [key for key in wrong if now - last[key] >= CALM and not ended]:
            self._tell(wrong.pop(key), True, now)
            del last[key]
        for key, words in found.items():
            if key not in wrong and len(wrong) < MOST_WRONG:
                wrong[key], last[key] = words, now
                self._tell(words, False, now)

    # -- messages

    def _tell(self, words: str, well: bool, now: float) -> None:
        if self._spec.notify and self._state["messages"] < MOST_MESSAGES:
            self._state["messages"] += 1
            self._state["unsent"].append([self._state["messages"], words, well, now])

    def _post(self) -> None:
        under_way = self._posting is not None and self._posting.is_alive()
        self._note_posted()
        if self._state["unsent"] and not under_way:
            work = self._run, self._spec, list(self._state["unsent"]), self._posted
            self._posting = threading.Thread(target=_post_all, args=work, name="alerts", daemon=True)
            self._posting.start()

    def _note_posted(self) -> None:
        while not self._posted.empty():
            number, self._fault = self._posted.get()
            self._state["unsent"] = [message for message in self._state["unsent"] if message[0] > number]


def _post_all(run: RunFolder, spec: RunSpec, messages: List[Any], posted: "SimpleQueue[Tuple[int, str]]") -> None:
    """Post each message, as `_tell` makes them, to all addresses, and note (its number, what went wrong if it did)."""
    from ..running import webhooks  # HTTP and TLS are imported where something is wrong only
    from ..store.http_client import HttpError

    for number, words, well, moment in messages:
        news, fault = webhooks.alert_notification(spec, run.attempt()[0], number, words, well, moment), ""
        for shown, url in run.webhooks().addresses.items():
            for pause in (*PAUSES, None):
                try:
                    webhooks.post(url, news)
                    break
                except HttpError as error:
                    if pause is None or not error.passing:
                        fault = "could not notify %s: %s" % (shown, error.message)
                        break
                    time.sleep(pause)
        posted.put((number, fault))


def _beyond(rule: Match[str], value: float) -> bool:
    bound = float(rule["bound"])
    return "=" in rule["sign"] if value == bound else (value > bound) == (">" in rule["sign"])
