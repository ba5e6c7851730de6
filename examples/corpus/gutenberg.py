#!/usr/bin/env python3
"""Make a text to train on from books of Project Gutenberg: what stands between its header and its footer.

    python examples/corpus/gutenberg.py pg1342.txt pg1661.txt --out data/input.txt

A book is a plain text file, or its address. What Project Gutenberg added is left out: its licence,
credits, and copyright notices within some old files.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from corpus import CorpusError
    from corpus.addresses import canonical
    from corpus.cache import Cache
    from corpus.files import write_whole
    from corpus.page import decoded
    from corpus.report import report
    from corpus.stop import Stop, Stopped
    from corpus.text import SHAPES, plain_text_of, straight, tidy
    from corpus.visitor import Visitor
except ModuleNotFoundError as error:
    if error.name not in ("requests", "bs4", "soupsieve", "protego"):
        raise
    needs = Path(__file__).with_name("requirements.txt")
    print(f"error: {error.name} is not installed\n\nhint: python -m pip install -r {needs}", file=sys.stderr)
    sys.exit(2)

NAME = r"Project[ \n]Gutenberg(?:'s|’s|-tm|™|\(tm\))?"
# A mark between stars may go on for some lines, as long titles do.
STARRED = r"[^\n]*(?:\n(?!\n)[^\n]*){0,3}?\*\*\*"
STARTS = re.compile(
    rf"^[ \t]*\*\*\*[ ]?START OF (?:THE|THIS) (?:COPYRIGHTED )?{NAME}(?:{STARRED}|[^\n]*)"
    r"|^[ \t]*\*?\*?\*?[ ]?END[ ]?\*?[ ]?(?:OF )?THE SMALL PRINT[^\n]*"
    rf"|^[ \t]*\*\*\*[ ]?(?:BEGINNING|Beginning) of (?:the|this) {NAME}[^\n]*",
    re.IGNORECASE | re.MULTILINE,
)
ENDS = re.compile(
    rf"^[ \t]*\*\*\*[ ]?END OF (?:THE|THIS) (?:COPYRIGHTED )?{NAME}"
    rf"|^[ \t]*\*{{0,3}}[ ]?(?:This is the )?End of (?:the |this )?(?:COPYRIGHTED )?{NAME}"
    r"|^[ \t]*\*{0,3}[ ]?(?:Ende dieses Proje[ck]ts?|Fin (?:de|du) (?:ce )?Project|Fine di Project)[ ]Gutenberg"
    r"|^[ \t]*\*\*\*[ ]?START: FULL LICENSE",
    re.IGNORECASE | re.MULTILINE,
)
CREDITS = re.compile(
    r"\[?(?:(?:e-?text|e-?book|this (?:e-?text|e-?book|file|text)|html version)\s+(?:was\s+)?"
    r"(?:prepared|produced|created|transcribed|scanned|typed|provided)\b"
    r"|(?:produced|prepared|transcribed|scanned|digitized|proofread|typed)(?:\s+and\s+\w+)?\s+(?:by|from)\b"
    r"|credits?:|release date:|character set encoding:"
    r"|updated editions will replace|note: project gutenberg also has)",
    re.IGNORECASE,
)
MOST_CREDITS = 8
"""Paragraphs at the start among which credits are looked for."""
NOTICES = re.compile(r"<<THIS ELECTRONIC VERSION OF.*?>>", re.DOTALL)  # in the old complete works of Shakespeare


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    stop = Stop()
    try:
        with stop.heard():
            books = [(source, _book(source, options, stop)) for source in options.book]
            whole = "\n\n".join(text for _, text in books) + "\n"
            write_whole(options.out, whole.encode())
    except Stopped as error:
        return error.exit_status
    except CorpusError as error:
        print(f"error: {error.message}" + (f"\n\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or options.out}: {error.strerror or error}", file=sys.stderr)
        return 2
    print("\n".join(report(len(books), [(str(options.out), whole)], whole)))
    print(f"{options.out} is made; next: remoterun upload {options.out} --name NAME", file=sys.stderr)
    return 0


def book_of(text: str, *, unmarked: bool = False) -> str:
    """The book within a file of Project Gutenberg; `text` with newlines only.

    Raises CorpusError if a mark at its start or end is not found, unless `unmarked`: then the file's edge is it.
    """
    end = next((found for found in ENDS.finditer(text) if STARTS.search(text, 0, found.start())), None)
    end = end or ENDS.search(text)
    before = text[: end.start()] if end else text
    start = 0
    for start_mark in STARTS.finditer(before):
        start = start_mark.end()
    absent = [name for name, found in (("start", start), ("end", end)) if not found]
    if absent and not unmarked:
        raise CorpusError(
            f"Project Gutenberg's mark at the {' and the '.join(absent)} of the book is not found",
            "is it the plain text file of a book? --unmarked takes what there is",
        )
    return _without_credits(NOTICES.sub("", before[start:])).strip("\n")


def _without_credits(text: str) -> str:
    paragraphs = re.split(r"\n[ \t]*\n", text.strip("\n"))
    first = [each for each in paragraphs[:MOST_CREDITS] if not CREDITS.match(each.strip())]
    return "\n\n".join(first + paragraphs[MOST_CREDITS:])


def _book(source: str, options: argparse.Namespace, stop: Stop) -> str:
    """The tidy text of one book, from a file or an address."""
    content, declared = _content(source, options, stop)
    text, _ = decoded(content, declared or _own_declaration(content), html=False)
    if re.match(r"\s*(?:<!doctype html|<html|<\?xml)", text, re.IGNORECASE):
        raise CorpusError(f"{source} is a web page", "the book's plain text is named `Plain Text UTF-8` there")
    text = re.sub(r"\r\n?", "\n", text)
    try:
        book = book_of(text, unmarked=options.unmarked)
    except CorpusError as error:
        raise CorpusError(f"{source}: {error.message}", error.hint) from error
    book = plain_text_of(book, "prose") if options.shape == "prose" else tidy(book)
    if not book:
        raise CorpusError(f"{source}: there is nothing between Project Gutenberg's header and footer")
    return straight(book) if options.straight else book


def _content(source: str, options: argparse.Namespace, stop: Stop) -> tuple[bytes, str]:
    """(bytes, what the server says of them, if there is one)."""
    if not re.match(r"https?://", source, re.IGNORECASE):
        return Path(source).read_bytes(), ""
    visitor = Visitor(
        Cache(options.cache), lambda line: print(line, file=sys.stderr), stop,
        contact=options.contact, largest=50_000_000,
    )  # fmt: skip
    address = canonical(source)
    try:
        answer = visitor.page(address)
    except CorpusError as error:
        raise CorpusError(f"{address}: {error.message}", error.hint or "download it, and name the file") from error
    return answer.body, answer.content_type


def _own_declaration(content: bytes) -> str:
    """`charset=…`, as the header of older books says it; "" if it doesn't."""
    found = re.search(rb"^Character set encoding: *([^\r\n]+)", content[:20_000], re.MULTILINE | re.IGNORECASE)
    name = found[1].decode("ascii", "ignore").strip().lower() if found else ""
    latin = re.fullmatch(r"(?:iso[- ]?)?(?:latin|8859)[- ]?1?|iso[- ]?(?:latin|8859)[- ]?1(?: \(.*\))?", name)
    return f"charset={'iso-8859-1' if latin else name.split()[0]}" if name else ""


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a text to train on from books of Project Gutenberg, without its header and footer.",
        allow_abbrev=False,
    )
    parser.add_argument("book", nargs="+", metavar="BOOK", help="a plain text file, or the address of one")
    parser.add_argument(
        "--as", dest="shape", choices=SHAPES, default="lyrics",
        help="lyrics keeps the file's lines; prose makes one line of each paragraph (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--straight", action="store_true", help="typewriter's quotes and dashes: fewer characters")
    parser.add_argument("--unmarked", action="store_true", help="take a file in which the marks are not found")
    parser.add_argument("--contact", default="", metavar="MAIL_OR_PAGE", help="told to the site, to reach you")
    parser.add_argument(
        "--out", type=Path, default=Path("gutenberg/input.txt"), metavar="FILE", help="the text (default: %(default)s)"
    )
    parser.add_argument("--cache", type=Path, default=Path("gutenberg/cache"), metavar="FOLDER",
        help="where pages are kept as they came (default: %(default)s)")  # fmt: skip
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
