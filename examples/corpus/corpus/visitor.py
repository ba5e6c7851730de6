"""A polite visitor of web sites: robots.txt, a pause between requests, patience, and nothing asked twice."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import urljoin

import requests
from protego import Protego

from corpus import CorpusError
from corpus.addresses import canonical, origin, site
from corpus.cache import Answer, Cache
from corpus.stop import Stop

NAME = "remoterun-corpus"
VERSION = "1.0"

TRIES = 5
BUSY = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which one asks again."""
LASTING = (200, 301, 302, 303, 307, 308, 404, 410)
"""Answers that are kept."""
TEXTS = ("", "text/html", "application/xhtml+xml", "text/plain")
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 5
LONGEST_PAUSE = 300.0
"""Seconds. A site that wants a longer pause before the next try is left alone."""
CONNECT_TIMEOUT, READ_TIMEOUT, PAGE_TIMEOUT = 10.0, 30.0, 120.0
"""Seconds: until there is a connection, without a byte, for a whole page."""
ROBOTS_AGE = 24 * 3600.0
ROBOTS_SIZE = 512 << 10


class PageError(CorpusError):
    """This page can't be had. `absent`: the site says that there is none; `ours`: we may not, or don't want to."""

    def __init__(self, message: str, hint: str = "", *, absent: bool = False, ours: bool = False) -> None:
        super().__init__(message, hint)
        self.absent = absent
        self.ours = ours


class Visitor:
    """Fetches pages of some sites, one at a time, through the cache.

    `delay` is the least number of seconds between two requests to a host, `largest` the most bytes of a page.
    `refresh`: what is in the cache is asked for again, unless the site says that it hasn't changed.
    """

    def __init__(
        self,
        cache: Cache,
        say: Callable[[str], None],
        stop: Stop,
        *,
        delay: float = 1.0,
        contact: str = "",
        largest: int = 5_000_000,
        refresh: bool = False,
    ) -> None:
        self._cache = cache
        self._say = say
        self._stop = stop
        self._delay = delay
        self._largest = largest
        self._refresh = refresh
        self._session = requests.Session()
        self._session.headers["User-Agent"] = f"{NAME}/{VERSION}" + (f" (+{contact})" if contact else "")
        self._session.headers["Accept"] = "text/html, application/xhtml+xml, text/plain;q=0.9"
        self._rules: dict[str, Protego | None] = {}
        self._free: dict[str, float] = {}
        self._answered: set[str] = set()
        self._fresh: set[str] = set()
        self.requests = 0

    def page(self, address: str) -> Answer:
        """The page at a canonical address, or where that redirects to within its site: an answer with status 200.

        Raises PageError if it can't be had; CorpusError if its whole site can't; Stopped.
        """
        here = address
        for _ in range(MOST_REDIRECTS + 1):
            if self._known(here) is None and not self.allowed(here):
                raise PageError("robots.txt of the site asks to leave it alone", ours=True)
            answer = self._answer(here)
            if answer.status not in REDIRECTS:
                return _checked(answer)
            target = _target(here, answer.location)
            if site(target) != site(address):
                raise PageError(f"it leads to another site, {target}", "start from there if that is meant", ours=True)
            here = target
        raise PageError(f"it redirects more than {MOST_REDIRECTS} times")

    def here(self, address: str) -> bool:
        """Whether `page` would ask nobody: what it says of the address is known, redirects included."""
        for _ in range(MOST_REDIRECTS + 1):
            answer = self._known(address)
            if answer is None:
                return False
            if answer.status not in REDIRECTS:
                return True
            target = _target(address, answer.location)
            if site(target) != site(address):
                return True
            address = target
        return True

    def allowed(self, address: str) -> bool:
        """Whether robots.txt lets us ask for it; fetches that first, once a day. Raises CorpusError, Stopped."""
        rules = self._robots(origin(address))
        return rules is None or bool(rules.can_fetch(address, NAME))

    def pause(self, address: str) -> float:
        """Seconds from one request to the host of `address` to the next, as robots.txt and the user want it."""
        rules = self._rules.get(origin(address))
        if rules is None:
            return self._delay
        asked = [self._delay, float(rules.crawl_delay(NAME) or 0)]
        rate = rules.request_rate(NAME)
        if rate is not None and rate.requests > 0:
            asked.append(rate.seconds / rate.requests)
        return max(asked)

    # -- the cache

    def _known(self, address: str) -> Answer | None:
        """What the cache has, if it holds under today's limits."""
        answer = self._cache.get(address)
        if answer is not None and self._refresh and address not in self._fresh:
            return None
        return answer if answer is not None and not 0 < answer.larger_than < self._largest else None

    def _answer(self, address: str) -> Answer:
        known = self._known(address)
        if known is not None:
            return known
        old = self._cache.get(address) if self._refresh else None
        answer = self._ask(address, old, self._largest)
        if answer.status in LASTING:
            self._cache.put(answer)
            self._fresh.add(address)
        return answer

    # -- robots.txt

    def _robots(self, place: str) -> Protego | None:
        """The rules of an origin; None: there are none."""
        if place not in self._rules:
            answer = self._robots_answer(place)
            self._rules[place] = Protego.parse(answer.body.decode("utf-8", "replace")) if answer.status == 200 else None
            if self.pause(place) > self._delay:
                self._say(f"robots.txt of {place} asks for {self.pause(place):g} s between requests")
        return self._rules[place]

    def _robots_answer(self, place: str) -> Answer:
        address = f"{place}/robots.txt"
        old = self._cache.get(address)
        if old is not None and 0 <= time.time() - old.fetched < ROBOTS_AGE:
            return old
        where = address
        for _ in range(MOST_REDIRECTS + 1):
            try:
                answer = self._ask(where, None, ROBOTS_SIZE, cut=True)
            except PageError as error:  # a site that can't say what it allows, allows nothing
                raise CorpusError(
                    f"{address} can't be read, so the site is left alone: {error.message}",
                    error.hint or "the same command, later, goes on from here",
                ) from error
            if answer.status not in REDIRECTS:
                break
            where = _target(where, answer.location)
        if answer.status >= 500:
            raise CorpusError(
                f"{address} can't be read, so the site is left alone: it answers {_status(answer.status)}",
                "the same command, later, goes on from here",
            )
        answer = Answer(address, answer.status, answer.fetched, body=answer.body)
        self._cache.put(answer)
        return answer

    # -- the network

    def _ask(self, address: str, old: Answer | None, largest: int, *, cut: bool = False) -> Answer:
        """What the site answers to a request, when it is not too busy. `old` is what it answered before.

        `cut`: of what is larger than `largest`, the start is kept; otherwise nothing.
        """
        host = origin(address)
        for attempt in range(1, TRIES + 1):
            self._stop.check()
            self._stop.wait(self._free.get(host, 0) - time.monotonic())
            wish = 0.0
            try:
                answer, wish = self._request(address, old, largest, cut)
                self._answered.add(host)
                if answer.status not in BUSY:
                    return answer
                why = f"it answers {_status(answer.status)}"
            except requests.exceptions.SSLError as error:
                raise PageError(f"its certificate is not trusted: {_root(error)}") from error
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                why = _root(error)
                if host not in self._answered:
                    raise CorpusError(f"{host} doesn't answer: {why}", "check the address and the network") from error
            except requests.RequestException as error:
                raise PageError(_root(error)) from error
            finally:
                self._free[host] = time.monotonic() + self.pause(address)
            pause = max(wish, self.pause(address) * 2 ** (attempt - 1))
            if pause > LONGEST_PAUSE:
                raise PageError(
                    f"{why}, and wants {_duration(pause)} of peace", "the same command, later, goes on here"
                )
            if attempt < TRIES:
                self._say(f"{address}: {why}; again in {pause:.0f} s" if pause >= 1 else f"{address}: {why}; again")
                self._stop.wait(pause)
        raise PageError(f"{why}, {TRIES} times", "the same command, later, goes on from here")

    def _request(self, address: str, old: Answer | None, largest: int, cut: bool) -> tuple[Answer, float]:
        """(the answer, the seconds that the site wants until the next request)."""
        conditions = {}
        if old is not None and old.status == 200 and not old.larger_than:
            conditions = {"If-None-Match": old.etag, "If-Modified-Since": old.last_modified}
        self.requests += 1
        began = time.monotonic()
        with self._session.get(
            address,
            headers={name: value for name, value in conditions.items() if value},
            timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
            allow_redirects=False,
            stream=True,
        ) as response:
            headers = response.headers
            if response.status_code == 304 and old is not None:
                return old, 0
            body, whole = b"", True
            if response.status_code == 200 and (cut or _is_text(headers.get("Content-Type", ""))):
                body, whole = _read(response, largest, began)
            answer = Answer(
                address,
                response.status_code,
                time.time(),
                headers.get("Content-Type", ""),
                headers.get("Location", ""),
                headers.get("ETag", ""),
                headers.get("Last-Modified", ""),
                0 if whole or cut else largest,
                body if whole or cut else b"",
            )
            return answer, _retry_after(headers.get("Retry-After", ""))


def _read(response: requests.Response, largest: int, began: float) -> tuple[bytes, bool]:
    """At most `largest` bytes of the body, and whether they are all. Raises PageError if it trickles."""
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) > max(largest, ROBOTS_SIZE):
        return b"", False
    body = bytearray()
    for part in response.iter_content(64 << 10):
        body += part
        if len(body) > largest:
            return bytes(body[:largest]), False
        if time.monotonic() - began > PAGE_TIMEOUT:
            raise PageError(f"it had not come whole after {PAGE_TIMEOUT:.0f} s")
    return bytes(body), True


def _checked(answer: Answer) -> Answer:
    if answer.status in (404, 410):
        raise PageError(f"there is no such page ({answer.status})", absent=True)
    if answer.status in (401, 403, 451):
        raise PageError(f"the site doesn't give it to us ({_status(answer.status)})")
    if answer.status != 200:
        raise PageError(f"it answers {_status(answer.status)}")
    if answer.larger_than:
        raise PageError(f"it is larger than {answer.larger_than:,} bytes", "--largest N takes larger pages", ours=True)
    if not _is_text(answer.content_type):
        raise PageError(f"it is not text but {answer.content_type}", ours=True)
    return answer


def _is_text(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in TEXTS


def _target(here: str, location: str) -> str:
    try:
        return canonical(urljoin(here, location))
    except (CorpusError, ValueError) as error:
        raise PageError(f"it redirects to `{location}`, which is not an address") from error


def _retry_after(value: str) -> float:
    """Seconds; the header holds them, or a date."""
    if value.strip().isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return 0
    return max((date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0)


def _status(code: int) -> str:
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _root(error: BaseException) -> str:
    """The innermost reason of one of requests' errors, in its own words."""
    text = str(error)
    known = {
        "NameResolutionError": "its name is not known",
        "Connection refused": "the connection is refused",
        "ConnectTimeout": "no connection",
        "Read timed out": f"nothing came for {READ_TIMEOUT:.0f} s",
        "Network is unreachable": "there is no network",
        "RemoteDisconnected": "it hung up",
        "Connection reset": "it hung up",
        "IncompleteRead": "it hung up half-way",
    }
    return next((words for mark, words in known.items() if mark in text), text or type(error).__name__)
