"""What a text is made of: its size, and the characters that are rare in it."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

RARE = 10


def report(pieces: int, files: Sequence[tuple[str, str]], whole: str) -> list[str]:
    """Lines about `whole`, a text of so many pieces, which stands in `files`: (name, content) of each.

    Every distinct character is a row of the network's tables, and one that comes three times is learnt by nobody: hence
    the rarest ones, each with where it stands.
    """
    counts = Counter(whole)
    size = len(whole.encode())
    lines = [
        f"pieces               {pieces:>9,}",
        f"characters           {len(whole):>9,}" + (f"   ({size:,} bytes)" if size != len(whole) else ""),
        f"distinct characters  {len(counts):>9,}",
    ]
    rarest = sorted(counts, key=lambda character: (counts[character], -ord(character)))[:RARE]
    lines.append("the rarest:" if rarest else "it is empty")
    return lines + [f"  {_described(each)}  {counts[each]:>5,} ×  {_place(each, files)}" for each in rarest]


def _described(character: str) -> str:
    shown = f" {character}  "
    if unicodedata.combining(character):
        shown = f" ◌{character}  "
    elif not character.isprintable():
        shown = f"{character!r:<4}"
    name = unicodedata.name(character, "newline" if character == "\n" else "no name")
    return f"{shown} U+{ord(character):04X} {name:<40.40}"


def _place(character: str, files: Sequence[tuple[str, str]]) -> str:
    """The first place of a character."""
    for name, text in files:
        at = text.find(character)
        if at >= 0:
            return f"{name}, line {text.count(chr(10), 0, at) + 1}"
    return "between pieces"
