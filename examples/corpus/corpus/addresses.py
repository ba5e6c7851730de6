"""Addresses: numbered ranges of them, patterns for the links to follow, and what counts as the same site."""

import re
from itertools import product
from urllib.parse import urldefrag, urljoin, urlsplit, urlunsplit

from requests.utils import requote_uri

from corpus import CorpusError

MOST = 100_000
PORTS = {"http": 80, "https": 443}
BRACES = re.compile(r"\{([^{}]*)\}")


def expand(text: str) -> list[str]:
    """The addresses that `text` stands for, in order: `{1..40}`, `{001..040}`, `{a..z}` and `{one,two}`, as in bash.

    Several braces make every combination; the last one changes fastest. Raises CorpusError.
    """
    parts: list[list[str]] = []
    count, end = 1, 0
    for found in BRACES.finditer(text):
        choices = _choices(found[1], text)
        count *= len(choices)
        if count > MOST:
            raise CorpusError(f"`{text}` stands for more than {MOST:,} addresses", "ask for fewer at a time")
        parts += [[text[end : found.start()]], choices]
        end = found.end()
    parts.append([text[end:]])
    if any(brace in part for part in [parts[-1][0], *(each[0] for each in parts[:-1:2])] for brace in "{}"):
        raise CorpusError(f"a brace of `{text}` has no partner", "such as https://example.org/{1..40}.html")
    return list(dict.fromkeys("".join(words) for words in product(*parts)))


def canonical(address: str) -> str:
    """One spelling per page: no fragment, host in lower case, no default port, percent signs where they belong.

    Raises CorpusError if it is not the address of a web page.
    """
    text = urldefrag(address.strip())[0]
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme.lower(), (parts.hostname or "").lower(), parts.port
        host = host.encode("idna").decode("ascii") if host and not host.isascii() else host
    except ValueError as error:
        raise CorpusError(f"`{address}` is not an address: {error}") from error
    if scheme not in PORTS or not host:
        raise CorpusError(f"`{address}` is not the address of a web page", "such as https://example.org/songs.html")
    if parts.username or parts.password:
        raise CorpusError(f"the address of {host} holds a password; this fetches public pages only")
    place = f"[{host}]" if ":" in host else host
    if port is not None and port != PORTS[scheme]:
        place += f":{port}"
    path = urljoin("/", parts.path) if parts.path else "/"
    return str(requote_uri(urlunsplit((scheme, place, path, parts.query, ""))))


def origin(address: str) -> str:
    """Scheme, host and port, as `https://example.org`: what one robots.txt speaks for."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def site(address: str) -> tuple[str, int | None]:
    """What may not be left: the host, and the port unless it is the scheme's own (http may lead to https)."""
    parts = urlsplit(address)
    return parts.hostname or "", parts.port


def link(base: str, reference: str) -> str | None:
    """The canonical address of a link on the page `base`; None for mail, scripts and what can't be read."""
    try:
        return canonical(urljoin(base, reference.strip()))
    except (CorpusError, ValueError):
        return None


class Pattern:
    """Which links to follow: `*` is any text without a slash, `**` any text; the rest stands for itself."""

    def __init__(self, text: str, base: str) -> None:
        """`text` may be relative to the page `base`, as a link on it would be."""
        self.text = text
        parts = [re.escape(part) for part in re.split(r"(\*+)", canonical(urljoin(base, text)))]
        self._regex = re.compile("".join(_stars(part) for part in parts))

    def matches(self, address: str) -> bool:
        return self._regex.fullmatch(address) is not None


def _stars(escaped: str) -> str:
    return {r"\*": "[^/]*", r"\*\*": ".*"}.get(escaped, escaped)


def _choices(inside: str, text: str) -> list[str]:
    span = re.fullmatch(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])", inside)
    if span is None:
        if ".." in inside or not inside:
            raise CorpusError(f"`{{{inside}}}` in `{text}` is not a range", "such as {1..40}, {001..040} or {a..z}")
        return inside.split(",")
    first, last = span[1], span[2]
    if first.isalpha() != last.isalpha():
        raise CorpusError(f"`{{{inside}}}` in `{text}` mixes letters and numbers", "such as {1..40} or {a..z}")
    if first.isalpha():
        low, high, name = ord(first), ord(last), chr
    else:
        low, high = int(first), int(last)
        if abs(high - low) >= MOST:
            raise CorpusError(f"`{text}` stands for more than {MOST:,} addresses", "ask for fewer at a time")
        padded = any(len(end.lstrip("-")) > 1 and end.lstrip("-")[0] == "0" for end in (first, last))
        width = max(len(first), len(last)) if padded else 0

        def name(number: int) -> str:
            return f"{number:0{width}d}" if width else str(number)

    step = 1 if low <= high else -1
    return [name(each) for each in range(low, high + step, step)]
