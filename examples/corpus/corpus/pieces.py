"""Pieces: one song, poem or chapter each. Their files, and the one text made of them."""

import re
import shutil
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from corpus.files import write_whole

LONGEST_NAME = 80
"""Bytes of a file's name, without its end."""


@dataclass(frozen=True)
class Piece:
    title: str
    address: str
    text: str
    """Tidy, and not empty."""


@dataclass(frozen=True)
class Filed:
    """A piece and the name of its file."""

    name: str
    piece: Piece


def without_duplicates(pieces: Iterable[Piece]) -> tuple[list[Piece], list[tuple[Piece, Piece]]]:
    """(the pieces, each text once, in their order; those left out, each with the one that stays)."""
    kept: dict[str, Piece] = {}
    left_out = []
    for piece in pieces:
        if piece.text in kept:
            left_out.append((piece, kept[piece.text]))
        else:
            kept[piece.text] = piece
    return list(kept.values()), left_out


def filed(pieces: Iterable[Piece]) -> list[Filed]:
    """A name for each, made from its title; no two alike, also where capitals don't count."""
    taken: set[str] = set()
    result = []
    for piece in pieces:
        stem = file_stem(piece.title)
        number, name = 1, stem
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        result.append(Filed(f"{name}.txt", piece))
    return result


def file_stem(title: str) -> str:
    """A safe name: letters and digits of any script in lower case, everything else a hyphen."""
    words = re.sub(r"['’]", "", unicodedata.normalize("NFC", title).lower())
    name = re.sub(r"[\W_]+", "-", words).strip("-")
    return name.encode()[:LONGEST_NAME].decode("utf-8", "ignore").strip("-") or "piece"


def joined(pieces: Iterable[Piece]) -> str:
    """The pieces' texts with an empty line between."""
    return "\n\n".join(piece.text for piece in pieces) + "\n"


def write(folder: Path, pieces: list[Filed]) -> None:
    """The pieces as `folder/pieces`, where nothing else is left; their titles and addresses as `folder/pieces.tsv`."""
    new, place, old = folder / "pieces.new", folder / "pieces", folder / "pieces.old"
    for path in (new, old):
        shutil.rmtree(path, ignore_errors=True)
    new.mkdir(parents=True)
    for each in pieces:
        (new / each.name).write_text(each.piece.text + "\n", "utf-8")
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    rows = [f"{each.name}\t{each.piece.title}\t{each.piece.address}\n" for each in pieces]
    write_whole(folder / "pieces.tsv", "".join(rows).encode())
