"""The number that a home gives to a version of an upload.

A user's number means one content, on whatever machine: the client keeps the numbering (registry/uploads.py), and tells
a home the number that it wishes, so that the folders of all homes agree as far as they can. A home never gives a number
that it has for another content; what it gave instead, the client learns from the answer, and asks by digest ever after.
"""

from __future__ import annotations

from typing import Iterable, Tuple

from .api import CommitUpload, UploadVersion


def number_for(digest: str, known: Iterable[UploadVersion], asked: CommitUpload) -> Tuple[int, bool]:
    """(the number for a content, whether a home with the versions `known` has it under that number, and whole).

    `known`: by their numbers, the highest last, which is the home's newest one.
    """
    versions = list(known)
    top = versions[-1].version if versions else 0
    whole = [each.version for each in versions if each.digest == digest and not each.damaged]
    if asked.copy:
        if whole:
            return (asked.number if asked.number in whole else whole[-1]), True
        taken = {each.version for each in versions}
        wished = asked.number if asked.number > 0 and asked.number not in taken else max(top, asked.number) + 1
        return wished, False
    is_newest = asked.newest == digest
    if whole and whole[-1] == top and (is_newest or top >= asked.number):
        return top, True
    if is_newest and asked.number > top:
        return asked.number, False
    return max(top, asked.number) + 1, False
