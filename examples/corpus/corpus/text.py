"""HTML to plain text, as lyrics (lines and stanzas) or as prose (paragraphs), and plain text made tidy."""

import re
import unicodedata

from bs4 import BeautifulSoup
from bs4.element import Comment, NavigableString, PreformattedString, Tag

from corpus import CorpusError

SHAPES = ("lyrics", "prose")

# While the text is gathered, these stand for a <br>, an edge of a block, and an edge of one with space around it.
BREAK, BLOCK, APART = "\ufdd0", "\ufdd1", "\ufdd2"
EDGES = re.compile(f"[ \n]*[{BREAK}{BLOCK}{APART}][ \n{BREAK}{BLOCK}{APART}]*")

NOT_TEXT = (
    *("script", "style", "noscript", "template", "head", "title", "nav", "footer", "aside", "menu", "dialog"),
    *("form", "button", "input", "select", "textarea", "iframe", "object", "embed", "svg", "canvas", "audio", "video"),
)
NOT_TEXT_ROLES = ("navigation", "banner", "contentinfo", "complementary", "search", "menu", "dialog", "alert")
NOT_TEXT_NAMES = re.compile(
    r"(?:^|[-_])(?:ads?|adsense|advert(?:s|isement|ising)?|adverts?|sponsor(?:ed|s)?|promo|banner|cookies?|consent|gdpr"
    r"|share|sharing|social|breadcrumbs?|sidebar|navbar|navigation|menu|footer|comments?|disqus|related|newsletter"
    r"|subscribe|pagination|pager|popup|modal|toolbar|skip-link)(?:$|[-_])",
    re.IGNORECASE,
)
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.IGNORECASE)
KEEPS_LINES = re.compile(r"white-space\s*:\s*(?:pre|break-spaces)", re.IGNORECASE)
APART_TAGS = frozenset(
    ("p", "h1", "h2", "h3", "h4", "h5", "h6", "blockquote", "pre", "ul", "ol", "dl", "table", "section", "article")
    + ("main", "figure", "hr", "address", "details", "fieldset")
)
BLOCK_TAGS = frozenset(
    ("div", "li", "tr", "dt", "dd", "caption", "summary", "center", "header", "hgroup", "figcaption", "body", "legend")
)

SPACES = re.compile(r"[\t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e"
    r"\u2060-\u2069\ufeff\ufdd0-\ufdef\ufffe]"
)

PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′‹›`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–−", "-"),
        **dict.fromkeys("—―", "--"),
    }
    | {"…": "...", "•": "*", "ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st"}
)

PARTS = (
    r"(?:pre-?|post-?)?(?:chorus|hook|verse)|bridge|intro|outro|refrain|interlude|instrumental|solo|breakdown|coda"
    r"|spoken|fade(?:s| out)?|repeat(?: (?:chorus|refrain|verse|hook))?|ref|tag"
)
MARK = re.compile(
    rf"\[[^\]]*\]|[(* ]*(?:{PARTS})\s*(?:\d+|[ivx]+)?\s*(?:[(\[]?(?:x\s?\d+|\d+\s?x)[)\]]?)?[ :.)*]*"
    r"|[(\[]?(?:x\s?\d+|\d+\s?x)[)\]]?",
    re.IGNORECASE,
)


def title_of(soup: BeautifulSoup, select: str = "") -> str:
    """What a page is called: the first match of `select`; without, its only <h1>, or its <title>; "" if it has none."""
    if select:
        found = first(soup, select)
        return " ".join(found.get_text(" ").split()) if found is not None else ""
    for found in (_only_heading(_main(soup)), _only_heading(soup), soup.find("title")):
        if found is not None:
            return " ".join(tidy(found.get_text(" ")).split())
    return ""


def text_of(soup: BeautifulSoup, shape: str, select: str = "", drop: tuple[str, ...] = ()) -> str:
    """The text of a page, tidy; "" if nothing of it is text or nothing matches `select`. Changes `soup`.

    Without `select`: of <main>, or of the only <article>, or of the whole body, less what is not text by its tag, role,
    name or style, and less a heading that is the page's title. With it: of all that matches, in the page's order, less
    scripts and the like. `drop`: further selectors of what is left out. Raises CorpusError for a wrong selector.
    """
    for selector in drop:
        for each in matches(soup, selector):
            each.decompose()
    if select:
        roots = matches(soup, select)
        roots = [each for each in roots if not any(parent in roots for parent in each.parents)]
    else:
        roots = [_main(soup)]
    gathered = APART.join(_gather(root, chosen=bool(select)) for root in roots)
    return lyrics(gathered) if shape == "lyrics" else prose(gathered)


def plain_text_of(text: str, shape: str) -> str:
    """The same of a page that is plain text already."""
    gathered = APART.join(paragraph.replace("\n", BREAK) for paragraph in re.split(r"\n\s*\n", _lines(text)))
    return lyrics(gathered) if shape == "lyrics" else prose(gathered)


def first(soup: BeautifulSoup, selector: str) -> Tag | None:
    return next(iter(matches(soup, selector)), None)


def matches(soup: BeautifulSoup, selector: str) -> list[Tag]:
    """Raises CorpusError if that is no CSS selector."""
    from soupsieve import SelectorSyntaxError

    try:
        return list(soup.select(selector))
    except (SelectorSyntaxError, NotImplementedError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise CorpusError(f"`{selector}` is no CSS selector: {why}", "such as 'div.lyrics' or '#song p'") from error


def lyrics(gathered: str) -> str:
    """Every line kept, and one empty line between stanzas."""

    def edge(run: re.Match[str]) -> str:
        marks = run[0].replace(" ", "").replace("\n", "")
        # The line ends at the first mark, whatever it is; a further <br> is an empty line, a further edge isn't.
        empty = marks.count(BREAK) - marks.startswith(BREAK)
        return "\n\n" if APART in marks or empty else "\n"

    return tidy(EDGES.sub(edge, gathered))


def prose(gathered: str) -> str:
    """One line per paragraph, and one empty line between paragraphs."""

    def edge(run: re.Match[str]) -> str:
        marks = run[0].replace(" ", "").replace("\n", "")
        return " " if marks == BREAK else "\n\n"

    return tidy(EDGES.sub(edge, gathered))


def tidy(text: str) -> str:
    """NFC; spaces of every kind are spaces, one at a time; nothing unseen; no space or empty line at the edges."""
    text = unicodedata.normalize("NFC", UNSEEN.sub("", SPACES.sub(" ", _lines(text))))
    lines = [re.sub(" {2,}", " ", line).strip() for line in text.split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def straight(text: str) -> str:
    """Typographic quotes, dashes, dots and ligatures as a typewriter has them: fewer characters to learn."""
    return text.translate(PLAIN)


def without_marks(text: str) -> str:
    """Without the lines that only name a section or a repetition: `[Chorus]`, `Verse 2:`, `(x2)`."""
    return tidy("\n".join(line for line in text.split("\n") if not line or not MARK.fullmatch(line)))


def _main(soup: BeautifulSoup) -> Tag:
    for candidates in (soup.find_all("main"), soup.find_all(attrs={"role": "main"}), soup.find_all("article")):
        if len(candidates) == 1 and candidates[0].get_text(strip=True):
            return candidates[0]
    return soup.body or soup


def _gather(root: Tag, *, chosen: bool) -> str:
    """The text within `root`, with marks where blocks begin and end. Not recursive: some pages nest very deeply."""
    heading = None if chosen else _only_heading(root)
    out: list[str] = []
    enough = len(root.get_text()) / 2
    stack: list[Tag | NavigableString | str] = [root]
    keeps: list[bool] = [False]
    while stack:
        node = stack.pop()
        if isinstance(node, str) and not isinstance(node, NavigableString):  # what closes a block
            keeps.pop()
            out.append(node)
        elif isinstance(node, NavigableString):
            if not isinstance(node, PreformattedString | Comment):
                out.append(_characters(str(node), keeps[-1]))
        elif node.name == "br":
            out.append(BREAK)
        elif node is root or not (node is heading or _no_text(node, chosen, enough)):
            edge = APART if node.name in APART_TAGS else BLOCK if node.name in BLOCK_TAGS else ""
            edge = edge or (" " if node.name in ("td", "th") else "")
            keeps.append(keeps[-1] or node.name == "pre" or bool(KEEPS_LINES.search(str(node.get("style") or ""))))
            out.append(edge)
            stack.append(edge)
            stack.extend(reversed(node.contents))  # type: ignore[arg-type]
    return "".join(out)


def _characters(text: str, keep_lines: bool) -> str:
    text = UNSEEN.sub("", SPACES.sub(" ", text))
    if keep_lines:
        return _lines(text).replace("\n", BREAK)
    return re.sub(r"[ \n\r\f\u2028\u2029]+", " ", text)


def _no_text(tag: Tag, chosen: bool, enough: float) -> bool:
    """Whether a part of a page is left out. One with more than `enough` characters is not, for a part of its name."""
    if tag.name in NOT_TEXT or tag.has_attr("hidden") or HIDDEN.search(str(tag.get("style") or "")):
        return True
    if chosen:
        return False
    if tag.get("aria-hidden") == "true" or tag.get("role") in NOT_TEXT_ROLES:
        return True
    if tag.name == "header" and tag.find_parent(["article", "main"]) is None:
        return True
    classes = tag.get("class") or []
    names = [*(classes if isinstance(classes, list) else [classes]), str(tag.get("id") or "")]
    found = [match for match in (NOT_TEXT_NAMES.search(str(name)) for name in names) if match]
    whole = any(match[0] == match.string for match in found)
    return whole or (bool(found) and len(tag.get_text()) <= enough)


def _only_heading(root: Tag) -> Tag | None:
    headings = [each for each in root.find_all("h1") if each.get_text(strip=True)]
    return headings[0] if len(headings) == 1 else None


def _lines(text: str) -> str:
    return re.sub(r"\r\n?|[\u0085\u2028\u2029\f\v]", "\n", text)
