"""An archived tree: where its contents lie, and what is no such tree."""

from __future__ import annotations

import hashlib
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared import archive
from remoterun.agent.shared.archive import (
    PACK,
    ArchivedTree,
    Extent,
    Places,
    TreeHeader,
    contents_of,
)
from remoterun.agent.shared.tree import Entry, Manifest


def digest_of(number: int) -> str:
    return hashlib.sha256(b"%d" % number).hexdigest()


def tree_of_sizes(sizes: list[int]) -> ArchivedTree:
    """A tree of files of these sizes, no two alike, packed."""
    manifest = Manifest([Entry("f", f"{number:06}", size, digest_of(number)) for number, size in enumerate(sizes)])
    places: Places = {}
    for number, (digest, size) in enumerate(contents_of(manifest)):
        pack = digest_of(-1 - number // 100_000)
        places[digest] = (Extent(pack, number, size // 2), Extent(pack, 0, size - size // 2))
    return ArchivedTree(manifest, places)


@given(st.lists(st.integers(0, 3 * PACK + 5) | st.integers(0, 20), max_size=30))
def test_what_is_written_is_read_again(sizes: list[int]) -> None:
    tree = tree_of_sizes(sizes)
    data = tree.encode(1234.5)
    read = ArchivedTree.decode(data)
    assert (read.manifest.encode(), read.places) == (tree.manifest.encode(), tree.places)
    header = TreeHeader.decode(data[: archive.MOST_HEADER])
    assert (header.digest, header.files, header.created) == (tree.manifest.digest, len(sizes), 1234.5)
    assert header.size == sum(sizes)


def test_contents_that_are_empty_or_occur_twice_are_not_packed() -> None:
    entries = [Entry("f", name, size, digest_of(size)) for name, size in {"a": 1, "b": 0, "c": 1}.items()]
    assert list(contents_of(Manifest(entries))) == [(digest_of(1), 1)]


def test_ten_thousand_small_files_take_little_more_than_their_manifest() -> None:
    tree = tree_of_sizes([100] * 10_000)
    assert len(tree.encode(0)) < 1.3 * len(tree.manifest.encode()) and len(tree.packs) == 1


WHOLE = tree_of_sizes([5, 7])
LINES = WHOLE.encode(1.0).split(b"\n")
PACKS, FIRST = LINES[-4], LINES[-3]


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"{}\n",
        b"[" * 5000 + b"\n",
        WHOLE.encode(1.0)[:-1].replace(b'"format": 1', b'"format": 2'),
        WHOLE.encode(1.0).replace(WHOLE.manifest.digest.encode(), digest_of(99).encode()),
        WHOLE.encode(1.0).replace(b'"manifest": ', b'"manifest": 1'),
        WHOLE.encode(1.0) + b"[0, 0, 1]\n",
        WHOLE.encode(1.0)[: -len(LINES[-2]) - 1],
        *(
            WHOLE.encode(1.0).replace(b"\n" + PACKS + b"\n", b"\n%s\n" % packs)
            for packs in (b"[]", b"{}", b'["../../other/packs/x"]', b"[5]", b"x", b"[" * 100_000)
        ),
        *(
            WHOLE.encode(1.0).replace(FIRST, json.dumps(numbers).encode())
            for numbers in (1, [], [0], [1, 0, 5], [-1, 0, 5], [0, -1, 5], [0, 0, 4], [0, 0, 6, 0, 6, -1], [0, 0.0, 5])
        ),
    ],
)  # fmt: skip
def test_what_is_not_an_archived_tree(bad: bytes) -> None:
    assert bad != WHOLE.encode(1.0)
    with pytest.raises(ValueError):
        ArchivedTree.decode(bad)


def hostile(line: bytes, files: int = 1) -> bytes:
    """A tree of so many files, whose list of packs, or of the places of the first one, is this line."""
    return tree_of_sizes([5] * files).encode(1.0).replace(PACKS if line[:2] == b"[[" else FIRST, line, 1)


@pytest.mark.parametrize(
    "data",
    [
        hostile(b"[[]" + b",[]" * (4 << 20) + b"]"),
        hostile(b"[" + b"[]," * (4 << 20) + b"[]]"),
        hostile(b"[" + b"0," * (8 << 20) + b"0]"),
        hostile(b"[" + b'{"a":0},' * (2 << 20) + b"0]"),
        tree_of_sizes([5]).encode(1.0) + b"\n" * (16 << 20),
    ],
    ids=["packs", "lists", "numbers", "objects", "lines"],
)
def test_a_hostile_tree_takes_no_more_memory_than_its_bytes(data: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError):
        ArchivedTree.decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * len(data)


def test_the_places_of_all_contents_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_EXTENTS", 3)
    ArchivedTree.decode(tree_of_sizes([5] * 3).encode(1.0))
    with pytest.raises(ValueError):
        ArchivedTree.decode(tree_of_sizes([5] * 4).encode(1.0))


def test_a_tree_can_name_nothing_but_packs_below_its_own_folder() -> None:
    for name in ("../x", "packs/x", digest_of(1).upper(), "/" + digest_of(1)):
        manifest = Manifest([Entry("f", "a", 1, digest_of(1))])
        data = ArchivedTree(manifest, {digest_of(1): (Extent(name, 0, 1),)}).encode(0)
        with pytest.raises(ValueError, match="names of packs"):
            ArchivedTree.decode(data)
