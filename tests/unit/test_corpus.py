"""The parts of examples/corpus: addresses, characters, HTML to text, books of Project Gutenberg, names, the report."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recorder import Recorded

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"


def load(name: str) -> ModuleType:
    """A module of the package `corpus`, or a script beside it."""
    sys.path.insert(0, str(CORPUS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(CORPUS))


corpus: Any = load("corpus")
addresses: Any = load("corpus.addresses")
cache: Any = load("corpus.cache")
page: Any = load("corpus.page")
pieces: Any = load("corpus.pieces")
report: Any = load("corpus.report")
text: Any = load("corpus.text")
visitor: Any = load("corpus.visitor")
gutenberg: Any = load("gutenberg")


def test_expand(recorded: Recorded) -> None:
    recorded.cases(lambda pattern: " ".join(addresses.expand(pattern)))


def test_expand_refuses(recorded: Recorded) -> None:
    recorded.cases(addresses.expand, corpus.CorpusError)


def test_canonical(recorded: Recorded) -> None:
    def canonical(written: str) -> str:
        found: str = addresses.canonical(written)
        assert addresses.canonical(found) == found
        return found

    recorded.cases(canonical)


def test_pattern(recorded: Recorded) -> None:
    def matches(title: str) -> bool:
        pattern, address = title.split()
        return bool(addresses.Pattern(pattern, "http://a.org/list/").matches(address))

    recorded.cases(matches)


def test_links_that_lead_nowhere() -> None:
    for reference in ("mailto:me@a.org", "javascript:void(0)", "http://[", "tel:1", "data:text/plain,x", "http://a:x/"):
        assert addresses.link("http://a.org/", reference) is None
    assert addresses.site("http://a.org/x") == addresses.site("https://a.org/y") != addresses.site("http://b.a.org/x")


@pytest.mark.parametrize(
    ("body", "content_type", "expected", "name"),
    [
        ("é".encode(), "", "é", "utf-8"),
        ("é".encode("latin-1"), "", "é", "windows-1252"),
        ("é’".encode("cp1252"), "text/html; charset=ISO-8859-1", "é’", "windows-1252"),
        ("é".encode("latin-1"), "text/html; charset=utf-8", "é", "windows-1252"),
        ("éàü".encode() + b"\xe9", "text/html; charset=utf-8", "éàü\ufffd", "utf-8"),
        ("й".encode("koi8-r"), 'text/html; charset="KOI8-R"', "й", "koi8-r"),
        ("é".encode(), "text/html; charset=nonsense", "é", "utf-8"),
        ("\ufeffé".encode("utf-16-le"), "text/html; charset=utf-8", "é", "utf-16-le"),
        ("\ufeffé".encode(), "text/html; charset=latin-1", "é", "utf-8"),
        (b"\x81\x8d", "", "\ufffd\ufffd", "windows-1252"),
    ],
)
def test_decoded(body: bytes, content_type: str, expected: str, name: str) -> None:
    assert page.decoded(body, content_type) == (expected, name)


def test_decoded_as_the_page_itself_says() -> None:
    body = '<html><head><meta http-equiv="Content-Type" content="text/html; charset=windows-1251">й'.encode("cp1251")
    assert page.decoded(body, "text/html")[0].endswith("й")


@given(st.binary(max_size=60), st.sampled_from(["", "text/html; charset=utf-8", "x; charset=shift_jis", "charset=hex"]))
def test_decoded_takes_any_bytes(body: bytes, content_type: str) -> None:
    found, encoding = page.decoded(body, content_type)
    assert len(found) <= len(body) and (not found or found.encode(encoding, "replace"))


def lyrics(markup: str, **options: Any) -> str:
    found: str = text.text_of(page.parsed(markup), "lyrics", **options)
    return found


def prose(markup: str) -> str:
    found: str = text.text_of(page.parsed(markup), "prose")
    return found


def test_lyrics(recorded: Recorded) -> None:
    recorded.cases(lyrics)
    assert lyrics("<div>" * 3000 + "deep") == "deep"


def test_lyrics_of_chosen_elements() -> None:
    markup = "<h1>T</h1><div class=l>one<div class=l>two</div></div>no<div class=l>three<p class=x>no</p></div>"
    assert lyrics(markup, select=".l", drop=(".x",)) == "one\ntwo\n\nthree"
    assert lyrics(markup, select=".none") == ""
    assert lyrics("<footer>one<script>no</script></footer>", select="footer") == "one"


def test_prose(recorded: Recorded) -> None:
    recorded.cases(prose)


@given(st.text(alphabet=st.sampled_from("ab <>/&;-!brpdivpreh1\n\xa0\u0301\ufdd0\u200b\u2028é\r\t"), max_size=80))
def test_text_is_tidy_whatever_the_page(markup: str) -> None:
    for shape in text.SHAPES:
        found = text.text_of(page.parsed(markup), shape)
        assert text.tidy(found) == found
        assert "\n\n\n" not in found and not set(found) & set("\xa0\ufdd0\ufdd1\ufdd2\u200b\u2028\r\t")
        if shape == "prose":
            assert all(line == "" for line in found.split("\n")[1::2])


def test_title(recorded: Recorded) -> None:
    def titled(title: str) -> str:
        select, _, markup = title.partition(" ")
        found: str = text.title_of(page.parsed(markup), select.strip("-"))
        return found

    recorded.cases(titled)


def test_marks_are_dropped_and_lines_are_not(recorded: Recorded) -> None:
    recorded.cases(lambda line: text.without_marks(f"one\n{line}\ntwo\n\n{line}\n\nthree"))


def test_straight() -> None:
    assert text.straight("‘It’s’ “so” — 1–2… ﬁne") == "'It's' \"so\" -- 1-2... fine"


def test_file_names(recorded: Recorded) -> None:
    recorded.cases(pieces.file_stem)
    assert (pieces.file_stem("x" * 300), pieces.file_stem("é" * 100)) == ("x" * 80, "é" * 40)


def test_no_two_files_have_one_name() -> None:
    made = [pieces.Piece(title, "", "x") for title in ("A", "a", "a 2", "A!", "a-2")]
    assert [each.name for each in pieces.filed(made)] == ["a.txt", "a-2.txt", "a-2-2.txt", "a-3.txt", "a-2-3.txt"]


def test_pieces_take_the_place_of_older_ones(tmp_path: Path) -> None:
    for titles in (("one", "two"), ("two", "three")):
        pieces.write(tmp_path, pieces.filed(pieces.Piece(title, "http://a/", title) for title in titles))
    assert sorted(path.name for path in (tmp_path / "pieces").iterdir()) == ["three.txt", "two.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pieces", "pieces.tsv"]


def test_the_report_counts_and_shows_where_rare_characters_stand(recorded: Recorded) -> None:
    files = [("a.txt", "aab"), ("b.txt", "aa\nbé\u0301")]
    lines = report.report(2, files, "aab\n\naa\nbé\u0301\n")
    recorded.same("\n".join(lines))
    assert len({line.index("×") - line.count("\u0301") for line in lines[4:]}) == 1, "they stand in columns"


def test_a_damaged_answer_counts_as_none(tmp_path: Path) -> None:
    kept = cache.Cache(tmp_path)
    answer = cache.Answer("http://a/", 200, 1.5, "text/html", body=b"x\ny\x00")
    kept.put(answer)
    assert kept.get("http://a/") == answer
    file = kept.path("http://a/")
    whole = file.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"[]\n", whole.replace(b'"format": 1', b'"format": 2')):
        file.write_bytes(content)
        assert kept.get("http://a/") is None


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [("7", 7, 7), ("", 0, 0), ("soon", 0, 0), ("-3", 0, 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
     ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9, 1e12)],
)  # fmt: skip
def test_retry_after(value: str, low: float, high: float) -> None:
    assert low <= visitor._retry_after(value) <= high


BODY = "CHAPTER I\n\nIt was the best of times."
LICENCE = "This file is for the use of anyone anywhere."


def test_a_book_stands_between_its_marks(recorded: Recorded) -> None:
    def book(title: str) -> str:
        start, end = json.loads(title)
        found: str = gutenberg.book_of(
            f"The EBook of A Tale\n\n{LICENCE}\n\n{start}\n\n\n{BODY}\n\n\n{end}\n\n{LICENCE}\n"
        )
        return "the book" if found == BODY else found

    recorded.cases(book)


def test_notices_within_a_book_go() -> None:
    file = f"*END*THE SMALL PRINT!\n\nI.\n<<THIS ELECTRONIC VERSION OF\n{LICENCE}>>\nII.\n\nEnd of Project Gutenberg\n"
    assert gutenberg.book_of(file) == "I.\n\nII."


def test_a_file_without_marks_is_refused(recorded: Recorded) -> None:
    def book(file: str) -> None:
        assert gutenberg.book_of(file, unmarked=True) == "mine"
        gutenberg.book_of(file)

    recorded.cases(book, corpus.CorpusError)


def test_old_books_say_their_encoding(recorded: Recorded) -> None:
    recorded.cases(lambda header: gutenberg._own_declaration(f"Title\r\n\r\n{header}\r\n\r\n".encode()))


MARKDOWN = """\
# Hamlet

## ACT I

### SCENE I. Elsinore. A platform
before the castle.

_FRANCISCO at his post. Enter
to him BERNARDO_

**BERNARDO**  \nWho's there?

**FRANCISCO**  \n_\\[Aside]_  \nNay, answer me\N{EM DASH}stand, and unfold yourself.

_Exit_

Long live the king!
"""


def test_of_a_play_speeches_are_kept_and_what_stands_around_them_is_not() -> None:
    assert load("make_sample").plain(MARKDOWN) == (
        "BERNARDO:\nWho's there?\n\n"
        "FRANCISCO:\nNay, answer me--stand, and unfold yourself.\nLong live the king!\n\n"
    )  # fmt: skip
