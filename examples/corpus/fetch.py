#!/usr/bin/env python3
"""Make a text to train on from pages of the web.

    python examples/corpus/fetch.py 'https://example.org/songs/{1..40}.html' --select 'div.lyrics'
    python examples/corpus/fetch.py https://example.org/songs/ --follow '/songs/*.html' --select 'div.lyrics'

In the folder corpus/ (--out): `input.txt`, the whole; `pieces/`, one file per page; `pieces.tsv`, where each is from;
`cache/`, the pages as they came. The same command goes on where it was stopped, and asks for no page twice.
"""

import argparse
import fcntl
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

try:
    from corpus import CorpusError, pieces, text
    from corpus.addresses import Pattern, canonical, expand, link, origin, site
    from corpus.cache import Answer, Cache
    from corpus.files import write_whole
    from corpus.options import parse
    from corpus.page import base, decoded, links, parsed
    from corpus.pieces import Piece
    from corpus.report import report
    from corpus.stop import Stop, Stopped
    from corpus.visitor import PageError, Visitor
except ModuleNotFoundError as error:
    if error.name not in ("requests", "bs4", "soupsieve", "protego"):
        raise
    needs = Path(__file__).with_name("requirements.txt")
    print(f"error: {error.name} is not installed\n\nhint: python -m pip install -r {needs}", file=sys.stderr)
    sys.exit(2)

MOST_INDEXES = 1000
"""Pages that are read for their links."""
FAILURES = 5
"""Pages in a row that can't be had, after which the site is left alone."""
EMPTY = 3
"""Pages without text at the start, after which nothing more is fetched."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    stop = Stop()
    try:
        with stop.heard():
            if options.dry_run:
                return plan(options, stop)
            with _alone(options.out):
                return fetch(options, stop)
    except Stopped as error:
        say("stopped; the same command goes on from here")
        return error.exit_status
    except CorpusError as error:
        say(f"error: {error.message}" + (f"\n\nhint: {error.hint}" if error.hint else ""))
        return 2
    except OSError as error:
        say(f"error: {error.filename or options.out}: {error.strerror or error}")
        return 2


def plan(options: argparse.Namespace, stop: Stop) -> int:
    """Print the pages that would be fetched, one a line; of the site only robots.txt and index pages are fetched."""
    visitor = _visitor(options, stop)
    known = new = 0
    for address in _pages(options, visitor):
        if visitor.here(address):
            known += 1
        elif visitor.allowed(address):
            new += 1
            print(address)
        else:
            say(f"left out, as robots.txt asks: {address}")
    say(f"{_count(new, 'page')} would be fetched" + (f", {known} are here already" if known else ""))
    return 0


def fetch(options: argparse.Namespace, stop: Stop) -> int:
    """Fetch what is missing, then make the pieces and the text, and print the report."""
    options.out.mkdir(parents=True, exist_ok=True)
    ignore = options.out / ".gitignore"
    if not ignore.exists():  # other people's words have no place in a repository
        write_whole(ignore, b"*\n")
    visitor = _visitor(options, stop)
    addresses = _pages(options, visitor)
    made, failed = _visit(addresses, visitor, options)
    if not made:
        raise CorpusError(f"no text came of {_count(len(addresses), 'page')}", "the lines above say why")
    kept, duplicates = pieces.without_duplicates(made)
    for piece, same in duplicates:
        say(f"{piece.address}: left out, as its words are those of {same.address}")
    filed = pieces.filed(kept)
    whole = pieces.joined(kept)
    pieces.write(options.out, filed)
    target = options.out / "input.txt"
    write_whole(target, whole.encode())
    places = [(f"{options.out}/pieces/{each.name}", each.piece.text) for each in filed]
    print("\n".join(report(len(filed), places, whole)))
    say(f"{target} is made; next: remoterun upload {target} --name NAME")
    if failed:
        say(f"without {_count(failed, 'page')} that could not be had; the same command tries again")
    return 1 if failed else 0


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# -- which pages


def _pages(options: argparse.Namespace, visitor: Visitor) -> list[str]:
    """The canonical addresses of the pieces, in their order, each once. Raises CorpusError, Stopped."""
    starts = [canonical(each) for text in options.address for each in expand(text)]
    found = _followed(starts, options, visitor) if options.follow or options.through else dict.fromkeys(starts)
    return list(found)[: options.limit]


def _followed(starts: list[str], options: argparse.Namespace, visitor: Visitor) -> dict[str, None]:
    if not options.follow:
        raise CorpusError("--through needs --follow", "--follow PATTERN says which links lead to the pieces")
    follow = [Pattern(each, starts[0]) for text in options.follow for each in expand(text)]
    through = [Pattern(each, starts[0]) for text in options.through for each in expand(text)]
    sites = {site(start) for start in starts}
    found: dict[str, None] = {}
    others: dict[str, None] = {}
    seen, waiting = set(starts), deque(starts)
    while waiting and (options.limit is None or len(found) < options.limit):
        index = waiting.popleft()
        try:
            answer = visitor.page(index)
        except PageError as error:
            if index in starts:
                raise CorpusError(f"{index}: {error.message}", error.hint) from error
            say(f"{index}: {error.message}")
            continue
        soup = parsed(decoded(answer.body, answer.content_type)[0])
        here = urljoin(answer.address, base(soup))
        for address in (link(here, reference) for reference in links(soup)):
            if address is None or site(address) not in sites:
                continue
            if any(pattern.matches(address) for pattern in follow):
                found[address] = None
            elif address not in seen and any(pattern.matches(address) for pattern in through):
                seen.add(address)
                waiting.append(address)
            else:
                others[address] = None
        if len(seen) > MOST_INDEXES:
            raise CorpusError(f"--through leads to more than {MOST_INDEXES} pages", "a narrower pattern")
    if not found:
        shown = "".join(f"\n  {address}" for address in list(others)[:8])
        raise CorpusError(
            f"no link on {starts[0]} matches --follow {' '.join(options.follow)}",
            f"`*` is any text without a slash, `**` any text; there are links such as{shown}"
            if shown
            else "there are no links to its own site at all; does a script make the page?",
        )
    say(f"{_count(len(found), 'page')} found by {_count(len(seen), 'index page')}")
    return found


# -- their content


def _visit(addresses: list[str], visitor: Visitor, options: argparse.Namespace) -> tuple[list[Piece], int]:
    """(the pieces, in the order of the addresses; how many pages could not be had). Raises CorpusError, Stopped."""
    made: list[Piece] = []
    failed = in_a_row = known = empty = 0
    missing = [address for address in addresses if not visitor.here(address) and visitor.allowed(address)]
    if missing:
        pause = visitor.pause(missing[0])
        say(f"{_count(len(missing), 'page')} to fetch, one every {pause:g} s: {_duration(pause * len(missing))}")
    for number, address in enumerate(addresses, 1):
        here = f"[{number}/{len(addresses)}] {address}"
        before = visitor.requests
        try:
            answer = visitor.page(address)
        except PageError as error:
            say(f"{here}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            if error.absent or error.ours:
                continue
            failed += 1
            in_a_row += 1
            if in_a_row == FAILURES:
                raise CorpusError(
                    f"{origin(address)} gave none of the last {FAILURES} pages, and is left alone",
                    "the same command, later, goes on from here",
                ) from error
            continue
        in_a_row = 0
        known += visitor.requests == before
        piece = _piece(address, answer, options)
        if piece.text:
            made.append(piece)
            if visitor.requests != before:
                say(f"{here}: {len(piece.text):,} characters")
            continue
        empty += 1
        say(f"{here}: nothing matches --select '{options.select}'" if options.select else f"{here}: there is no text")
        if empty == EMPTY and not made:
            raise CorpusError(
                f"there is no text in the first {EMPTY} pages",
                "look at a page's source for the element that holds the text, and name it: --select 'div.lyrics'",
            )
    if known:
        say(f"{_count(known, 'page')} had been fetched before")
    return made, failed


def _piece(address: str, answer: Answer, options: argparse.Namespace) -> Piece:
    """The piece of a page; its text may be empty."""
    html = not answer.content_type.lower().startswith("text/plain")
    words, _ = decoded(answer.body, answer.content_type, html=html)
    title = ""
    if html:
        soup = parsed(words)
        title = text.title_of(soup, options.title)
        body = text.text_of(soup, options.shape, options.select, tuple(options.drop))
    else:
        body = text.plain_text_of(words, options.shape)
    if options.drop_marks:
        body = text.without_marks(body)
    return Piece(title or _last_word(address), address, text.straight(body) if options.straight else body)


def _last_word(address: str) -> str:
    """A title for a page that has none."""
    parts = urlsplit(address)
    name = unquote(parts.path).rstrip("/").rpartition("/")[2].partition(".")[0]
    return " ".join(each for each in (name, parts.query) if each) or parts.netloc


# -- the command


def _visitor(options: argparse.Namespace, stop: Stop) -> Visitor:
    return Visitor(
        Cache(options.out / "cache"),
        say,
        stop,
        delay=options.delay,
        contact=options.contact,
        largest=options.largest,
        refresh=options.refresh,
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CorpusError(f"another fetch is at work in {folder}", "another folder: --out FOLDER") from None
        yield


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _duration(seconds: float) -> str:
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"


if __name__ == "__main__":
    sys.exit(main())
