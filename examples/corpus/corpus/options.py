"""The words after `fetch.py`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from corpus.text import SHAPES


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Make a text to train on from pages of the web: input.txt, and one file per page.",
        epilog="example: python examples/corpus/fetch.py 'https://example.org/songs/{1..40}.html' --select div.lyrics",
        allow_abbrev=False,
    )
    which = parser.add_argument_group("which pages")
    which.add_argument(
        "address", nargs="+", metavar="ADDRESS", help="a page; many: {1..40} {001..040} {a..z} {one,two}"
    )
    which.add_argument(
        "--follow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="the pieces are where those links of ADDRESS lead that match; * is any text without /, ** any text",
    )
    which.add_argument(
        "--through",
        action="append",
        default=[],
        metavar="PATTERN",
        help="links that lead to more pages with such links, such as the next page of a list",
    )
    which.add_argument("--limit", type=_positive, metavar="N", help="so many pages at most, the first ones")
    which.add_argument("--dry-run", action="store_true", help="print what would be fetched")
    content = parser.add_argument_group("what of a page")
    content.add_argument(
        "--as",
        dest="shape",
        choices=SHAPES,
        default="lyrics",
        help="lyrics keeps lines and stanzas; prose makes one line of each paragraph (default: %(default)s)",
    )
    content.add_argument("--select", default="", metavar="CSS", help="the element with the text, such as 'div.lyrics'")
    content.add_argument("--title", default="", metavar="CSS", help="the element with the title (default: its h1)")
    content.add_argument("--drop", action="append", default=[], metavar="CSS", help="elements to leave out")
    content.add_argument("--drop-marks", action="store_true", help="leave out lines such as [Chorus], Verse 2:, (x2)")
    content.add_argument("--straight", action="store_true", help="typewriter's quotes and dashes: fewer characters")
    manners = parser.add_argument_group("manners")
    manners.add_argument("--contact", default="", metavar="MAIL_OR_PAGE", help="told to the site, to reach you")
    manners.add_argument(
        "--delay",
        type=_seconds,
        default=1.0,
        metavar="SECONDS",
        help="from one request to a host to the next; robots.txt may ask for more (default: %(default)s)",
    )
    manners.add_argument(
        "--largest",
        type=_positive,
        default=5_000_000,
        metavar="BYTES",
        help="larger pages are left out (default: %(default)s)",
    )
    manners.add_argument("--refresh", action="store_true", help="ask again for what is in the cache, if it has changed")
    parser.add_argument(
        "--out", type=Path, default=Path("corpus"), metavar="FOLDER", help="where it all goes (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.drop_marks and options.shape != "lyrics":
        parser.error("--drop-marks goes with --as lyrics: of prose no line is left to be one")
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 <= number < 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600")
    return number
