"""Tokens: the network reads and writes one at a time. A token is a character or a word.

    char    every character
    word    words; every character outside a word, such as a blank, is a token of its own

Joined, tokens are the text again: nothing is lost. Words seen less than `RARE` times are spelt, letter by letter, so
that no word is unknown and the vocabulary stays small. A word is letters and digits, with apostrophes inside it.
Standard library only.
"""

import re
from collections import Counter
from collections.abc import Container, Iterator

LEVELS = ("char", "word")
RARE = 3
MOST_WORDS = 5000

_TOKEN = re.compile(r"[^\W_]+(?:['’][^\W_]+)*|.", re.DOTALL)


def level_of(vocabulary: list[str]) -> str:
    return "word" if any(len(token) > 1 for token in vocabulary) else "char"


def split(text: str, level: str) -> list[str]:
    """The words and other characters of `text`, or all its characters. Joined, they are `text`."""
    return list(text) if level == "char" else _TOKEN.findall(text)


def spelt(tokens: list[str], known: Container[str]) -> Iterator[str]:
    """`tokens`, with the words that are not in `known` as their letters."""
    for token in tokens:
        if token in known:
            yield token
        else:
            yield from token


def words_and_letters(text: str) -> list[str]:
    """The vocabulary of the level `word`, the most frequent first, equally frequent ones by appearance.

    It has all characters of `text`, also those that are part of known words only: any word can be spelt.
    """
    tokens = split(text, "word")
    words = [word for word, count in Counter(tokens).most_common() if len(word) > 1 and count >= RARE]
    known = set(words[:MOST_WORDS]) | set(text)
    counts = Counter(spelt(tokens, known))
    counts.update(dict.fromkeys(dict.fromkeys(text), 0))
    return [token for token, _ in counts.most_common()]
