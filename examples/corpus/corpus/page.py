"""A page's bytes as characters, and its HTML as a tree."""

import codecs
import re
import warnings

from bs4 import BeautifulSoup, XMLParsedAsHTMLWarning
from bs4.dammit import EncodingDetector

BOMS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


def decoded(body: bytes, content_type: str = "", *, html: bool = True) -> tuple[str, str]:
    """(text, the name of its encoding): by its byte order mark, else as the server says, else as the page says.

    As browsers do, `latin-1` is read as `windows-1252`. What says nothing, or says it wrongly, is UTF-8 if it can be,
    else `windows-1252`. No byte raises an error.
    """
    for mark, name in BOMS.items():
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace"), name
    found = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type, re.IGNORECASE)
    declared = found[1] if found else ""
    if not declared and html:
        declared = EncodingDetector.find_declared_encoding(body, is_html=True) or ""
    for name in (_browsers(declared), "utf-8"):
        try:
            if name:
                return body.decode(name), name
        except (UnicodeDecodeError, LookupError):
            pass
    if _browsers(declared) == "utf-8" and _mostly_utf8(body):
        return body.decode("utf-8", "replace"), "utf-8"
    return body.decode("windows-1252", "replace"), "windows-1252"


def parsed(text: str) -> BeautifulSoup:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)  # XHTML is HTML enough
        return BeautifulSoup(text, "html.parser")


def links(soup: BeautifulSoup) -> list[str]:
    """What the page's links refer to, as written, in their order."""
    return [str(each["href"]) for each in soup.find_all(["a", "area"], href=True)]


def base(soup: BeautifulSoup) -> str:
    """What the page's links are relative to, if it says so itself."""
    found = soup.find("base", href=True)
    return str(found["href"]) if found is not None else ""


def _browsers(name: str) -> str:
    """The encoding that browsers take the name for; "" if there is none of that name."""
    try:
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        return ""
    return "windows-1252" if known in ("iso8859-1", "ascii") else known


def _mostly_utf8(body: bytes) -> bool:
    """Whether more sequences of high bytes are right UTF-8 than not: a few damaged characters, not another encoding."""
    text = body.decode("utf-8", "replace")
    return sum(character > "\x7f" and character != "\ufffd" for character in text) > text.count("\ufffd")
