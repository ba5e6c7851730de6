"""Manifests in their canonical form, hostile ones, and the folder that nothing leaves."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import itertools
import json
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.paths import SafeFolder
from remoterun.agent.shared.tree import (
    HEADER,
    ChangedWhileRead,
    Entry,
    Manifest,
    ManifestBuilder,
    TreeError,
    check_path,
    hash_file,
    laid_over,
    link_stays_inside,
    read_entries,
    show,
    walk,
)
from tests.recorder import Recorded
from tests.workshop import Files, read_files, tree_of, until, write_files

PART = st.binary(min_size=1, max_size=20).filter(lambda raw: not set(raw) & set(b"/\0") and raw not in (b".", b".."))
PATH = st.lists(PART, min_size=1, max_size=4).map(lambda parts: os.fsdecode(b"/".join(parts)))
DIGEST = st.binary(min_size=32, max_size=32).map(bytes.hex)
TARGET = st.binary(min_size=1, max_size=30).filter(lambda raw: b"\0" not in raw).map(os.fsdecode)
ENTRY = st.one_of(
    st.builds(lambda p, s, d, x: Entry("f", p, s, d, x), PATH, st.integers(0, 2**60), DIGEST, st.booleans()),
    st.builds(lambda p, t: Entry("l", p, target=t), PATH, TARGET),
    st.builds(lambda p: Entry("d", p), PATH),
)


@given(st.lists(ENTRY, max_size=12), st.randoms())
def test_round_trip_and_one_form(entries: list[Entry], random: object) -> None:
    try:
        manifest = Manifest(entries)
    except TreeError:
        return
    data = manifest.encode()
    assert data.isascii()
    again = Manifest.decode(data)
    assert list(again) == list(manifest) and again.encode() == data
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert Manifest(entries).digest == manifest.digest == hashlib.sha256(data).hexdigest()


def test_the_form_stays_as_it_is() -> None:
    """A digest is written down in registries and run folders: it may never change."""
    manifest = Manifest(
        [
            Entry("d", "z"),
            Entry("f", os.fsdecode(b"b\xff\n"), 3, "ab" * 32, True),
            Entry("f", "é", 0, hashlib.sha256(b"").hexdigest()),
            Entry("l", "a", target="b/../c"),
        ]
    )
    assert manifest.encode() == (
        b'remoterun-tree 1\n["l","a","b/../c"]\n'
        b'["f","b\\udcff\\n",3,"' + b"ab" * 32 + b'",1]\n["d","z"]\n'
        b'["f","\\u00e9",0,"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",0]\n'
    )
    assert manifest.digest == "a16aae588263de6f39ffe550e5bf501de47ee9e3c3d7afe7b85491a938181cbc"


NASTY = st.sampled_from(
    ["a", "a-b", "a.b", "a b", "a\"b", "a\\b", "a\nb", "b", "A", ".a", "..a", "...", "é", "e\u0301", "\udcff",
     "a\udcff", "\u00ff", "\ue000", "\U0001f600", "~", "\x01", "\x7f"]
)  # fmt: skip
NASTY_PATH = st.lists(NASTY, min_size=1, max_size=3).map("/".join)
NASTY_ENTRY = st.builds(lambda p, k: Entry(k, p, target="x" * (k == "l")), NASTY_PATH, st.sampled_from("dl"))
TREE = st.dictionaries(NASTY_PATH, st.sampled_from(["file", "tool", "link", "folder"]), max_size=14)
_trees = itertools.count()


def consistent(paths: dict[str, str]) -> dict[str, str]:
    """Those that can be on a disk together: nothing lies below a file or a link, what holds something isn't empty."""
    kept: dict[str, str] = {}
    for path, kind in sorted(paths.items(), key=lambda pair: pair[0].count("/")):
        parents = [path[:at] for at, char in enumerate(path) if char == "/"]
        if all(kept.get(parent, "folder") == "folder" for parent in parents):
            for parent in parents:
                kept.pop(parent, None)
            if not any(other.startswith(path + "/") for other in kept):
                kept[path] = kind
    return kept


class TestOrder:
    @given(TREE)
    def test_a_walk_has_the_order_of_a_manifest(
        self, tmp_path_factory: pytest.TempPathFactory, paths: dict[str, str]
    ) -> None:
        files: Files = {}
        for path, kind in consistent(paths).items():
            content = {"file": path.encode(errors="surrogateescape"), "tool": b"#!", "link": "-> x", "folder": None}[
                kind
            ]
            files[path + "*" * (kind == "tool")] = content
        root = write_files(tmp_path_factory.getbasetemp() / f"tree{next(_trees)}", files)
        build = ManifestBuilder()
        for entry, _ in walk(str(root), (), []):
            build.add(entry)
        found = Manifest.built(build)
        assert Manifest(found).encode() == found.encode()
        assert [entry._replace(digest="") for entry in tree_of(files)[0]] == list(found)
        target = root.with_name(root.name + "-copy")
        target.mkdir()
        with SafeFolder(str(target)) as landing:
            for entry in found:
                if entry.kind == "d":
                    landing.folder(entry.path)
                else:
                    folder, name = landing.place(entry.path)
                    os.link(root / entry.path, name, dst_dir_fd=folder, follow_symlinks=False)
        assert read_files(target) == files

    @given(st.lists(ENTRY | NASTY_ENTRY, max_size=10))
    def test_what_is_refused_is_what_cannot_be(self, entries: list[Entry]) -> None:
        """As a plain check of all pairs says."""
        paths = [entry.path for entry in entries]
        leaves = {entry.path for entry in entries if entry.kind != "d"}
        parents = {path[:at] for path in paths for at, char in enumerate(path) if char == "/"}
        wrong = len(set(paths)) < len(paths) or bool(leaves & parents)
        try:
            manifest = Manifest(entries)
        except TreeError:
            assert wrong
            return
        assert not wrong
        assert [entry.path for entry in manifest] == sorted(paths, key=os.fsencode)
        assert manifest.size == sum(entry.size for entry in entries if entry.kind == "f")
        assert list(manifest.files) == [entry for entry in manifest if entry.kind == "f"]

    @given(st.lists(NASTY_PATH, unique=True, min_size=2, max_size=8), st.randoms(use_true_random=False))
    def test_a_list_in_another_order_is_refused(self, paths: list[str], chance: object) -> None:
        lines = [
            json.dumps(["d", path], separators=(",", ":")).encode() + b"\n" for path in sorted(paths, key=os.fsencode)
        ]
        assert Manifest.decode(HEADER + b"".join(lines)).encode() == HEADER + b"".join(lines)
        shuffled = list(lines)
        chance.shuffle(shuffled)  # type: ignore[attr-defined]
        if shuffled != lines:
            with pytest.raises(TreeError, match="out of order"):
                Manifest.decode(HEADER + b"".join(shuffled))
        with pytest.raises(TreeError, match="occurs twice"):
            Manifest.decode(HEADER + b"".join([*lines, lines[-1]]))

    @pytest.mark.parametrize("kind", ["f", "l"])
    def test_far_below_a_file(self, kind: str) -> None:
        """With others in between, that are neither."""
        between = [Entry("d", "a" + char) for char in '\x01 !"-.'] + [Entry("d", "a-/b"), Entry("l", "a.b", target="x")]
        leaf = Entry(kind, "a", 0, "ab" * 32 if kind == "f" else "", target="x" if kind == "l" else "")
        assert Manifest([leaf, *between, Entry("d", "a0/b/c/d")]).count == 10
        for below in ("a/b", "a/b/c/d/e"):
            with pytest.raises(TreeError, match="lies below a, which is not a folder"):
                Manifest([leaf, *between, Entry("d", below)])


class TestLargeOnes:
    ENTRIES = [
        Entry("f", f"x\udcff{number:02}", number, f"{number:064x}", number % 2 == 0) if number % 3
        else Entry("l" if number % 2 else "d", f"x {number:02}", target="t" * (number % 2))
        for number in range(40)
    ]  # fmt: skip

    def test_parsed_as_they_are_read(self, tmp_path: Path) -> None:
        entries = sorted(self.ENTRIES, key=lambda entry: os.fsencode(entry.path))
        files = [entry for entry in entries if entry.kind == "f"]
        manifest = Manifest(self.ENTRIES)
        assert (manifest.count, manifest.file_count) == (len(entries), len(files))
        assert list(manifest) == list(manifest) == entries and list(manifest.files) == list(manifest.files) == files
        again = Manifest.decode(manifest.encode())
        assert list(again) == entries
        assert again.find("x 03") == manifest.find("x 03") and again.find("y") is None
        assert list(again.below("x 00")) == []
        (tmp_path / "m").write_bytes(manifest.encode())
        assert list(read_entries(str(tmp_path / "m"))) == entries


class TestBuilder:
    def test_one_out_of_order(self) -> None:
        build = ManifestBuilder()
        build.add(Entry("d", "b"))
        for path, what in (("a", "out of order"), ("b", "twice"), ("A", "out of order")):
            with pytest.raises(TreeError, match=what):
                build.add(Entry("d", path))
        build.add(Entry("d", "b/c"))
        assert [entry.path for entry in Manifest.built(build)] == ["b", "b/c"]

    @pytest.mark.parametrize("path", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/.", "a\0b", "\ud800", "x" * 256,
                                      "d/" + "x" * 256, "/".join(["d" * 200] * 30), "/etc/passwd", "../x", "a/../../x",
                                      "a/./b"])  # fmt: skip
    def test_paths_that_are_refused(self, path: str) -> None:
        with pytest.raises(TreeError):
            ManifestBuilder().add(Entry("d", path))
        with pytest.raises(TreeError):
            ManifestBuilder().add_line(json.dumps(["f", path, 1, "ab" * 32, 0], separators=(",", ":")).encode() + b"\n")

    def test_links_to_what_is_no_name(self) -> None:
        with pytest.raises(TreeError):
            ManifestBuilder().add(Entry("l", "a", target="\ud800"))

    @given(ENTRY)
    def test_a_line_and_an_entry_are_the_same(self, entry: Entry) -> None:
        one, two = ManifestBuilder(), ManifestBuilder()
        one.add(entry)
        line = one.text()[len(HEADER) :]
        two.add_line(line)
        assert one.text() == two.text() and (one.count, one.files, one.size) == (two.count, two.files, two.size)
        loose = json.dumps(json.loads(line), ensure_ascii=False, indent=1) if line.isascii() else ""
        three = ManifestBuilder()
        three.add_line(loose.replace("\n", " ").encode("utf-8", "surrogatepass") + b"\n")
        assert three.text() == one.text(), "there is one form only, whatever came"

    @pytest.mark.parametrize("size", ["1" + "0" * 18, "9" * 4000, str(1 << 63)])
    def test_sizes_that_no_file_has(self, size: str) -> None:
        line = '["f","a",%s,"%s",0]\n' % (size, "ab" * 32)  # noqa: UP031
        if int(size) < 1 << 63:
            assert Manifest.decode(HEADER + line.encode()).size == int(size)
        else:
            with pytest.raises(TreeError):
                Manifest.decode(HEADER + line.encode())


ROW = '["f","%s",1,"' + "ab" * 32 + '",0]'


def test_hostile_manifests(recorded: Recorded) -> None:
    """Paths alone are held by `test_paths_that_are_refused`, which gives each as such a row, too."""
    recorded.cases(lambda rows: Manifest.decode(HEADER + rows.encode() + b"\n"), TreeError)
    for row in ("[" * 5000, ROW.replace(",1,", f",{'9' * 5000},") % "a"):
        with pytest.raises(TreeError):
            Manifest.decode(HEADER + row.encode() + b"\n")


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for text in (data, HEADER + data):
        with contextlib.suppress(TreeError):
            assert Manifest.decode(text).encode() == text, "there is one form of it"


@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=5)))
def test_any_json(row: object) -> None:
    with pytest.raises(TreeError):
        Manifest.decode(HEADER + json.dumps(row).encode() + b"\n")


def test_of_another_version() -> None:
    with pytest.raises(TreeError):
        Manifest.decode(b"remoterun-tree 2\n")


def test_below_and_find() -> None:
    manifest = Manifest([Entry("f", "a/b", 1, "ab" * 32), Entry("d", "a/e"), Entry("f", "ab", 2, "cd" * 32)])
    assert [entry.path for entry in manifest.below("a")] == ["b", "e"]
    assert list(manifest.below("a/b")) == [Entry("f", "b", 1, "ab" * 32)]
    assert list(manifest.below("a/e")) == []
    assert manifest.below("") is manifest
    for absent in ("b", "a/", "a/b/c", "A"):
        with pytest.raises(KeyError):
            manifest.below(absent)


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_inside(text: str) -> None:
    try:
        check_path(text)
    except TreeError:
        return
    assert not text.startswith("/") and os.path.normpath(text) == text and ".." not in text.split("/")


@given(PATH, TARGET)
def test_links_by_their_text(path: str, target: str) -> None:
    inside = link_stays_inside(path, target)
    reached = os.path.normpath(os.path.join("/root", os.path.dirname(path), target))
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up_again = any(part == ".." and set(parts[:number]) - {".."} for number, part in enumerate(parts))
    assert inside == (
        not up_again and not target.startswith("/") and (reached == "/root" or reached.startswith("/root/"))
    )


@given(st.dictionaries(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join),
    st.lists(st.sampled_from(["a", "b", "c", "..", "..", ".", ""]), min_size=1, max_size=6).map("/".join).filter(bool),
    max_size=5,
))  # fmt: skip
def test_links_that_stay_inside_do_so_together(tmp_path_factory: pytest.TempPathFactory, links: dict[str, str]) -> None:
    """Also when one leads through another: as the file system itself sees it."""
    root = tmp_path_factory.getbasetemp() / f"links{next(_trees)}" / "root"
    root.mkdir(parents=True)
    for path in consistent(dict.fromkeys(links, "link")):
        if link_stays_inside(path, links[path]):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(links[path])
    for made in root.rglob("*"):
        try:
            reached = made.resolve(strict=True)
        except (OSError, RuntimeError):
            continue  # nothing there, or a circle
        assert reached == root or root in reached.parents


@given(st.text())
def test_shown_names_have_no_control_characters(text: str) -> None:
    assert show(text).isprintable()


class TestWalk:
    def test_everything_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "a/b").mkdir(parents=True)
        (tmp_path / "a/b/f").write_bytes(b"12")
        (tmp_path / "empty/in").mkdir(parents=True)
        (tmp_path / "x").touch(0o755)
        (tmp_path / "l").symlink_to("a")
        (tmp_path / "skipped").mkdir()
        (tmp_path / "skipped/f").touch()
        os.mkfifo(tmp_path / "pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(tmp_path / "sock"))
            special: list[str] = []
            found = {item.entry for item in walk(str(tmp_path), ["skipped"], special)}
        assert found == {
            Entry("f", "a/b/f", 2), Entry("d", "empty/in"), Entry("f", "x", 0, "", True), Entry("l", "l", target="a"),
        }  # fmt: skip
        assert sorted(special) == ["pipe", "sock"]

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        assert list(walk(str(tmp_path / "absent"), (), [])) == []

    def test_a_file_that_grows_is_not_hashed(self, tmp_path: Path) -> None:
        path = tmp_path / "f"
        path.write_bytes(b"x" * (8 << 20))
        stop = threading.Event()

        def grow() -> None:
            while not stop.is_set():
                with path.open("ab") as file:
                    file.write(b"y")

        thread = threading.Thread(target=grow)
        thread.start()
        try:
            with pytest.raises(ChangedWhileRead):
                until(lambda: not hash_file(str(path)))
        finally:
            stop.set()
            thread.join()


class TestLanding:
    def test_folders_and_places(self, tmp_path: Path) -> None:
        with SafeFolder(str(tmp_path)) as landing:
            for path in ("a/b/c", "a/b/d", "e", "a/f", "a/b/g"):
                folder, name = landing.place(path)
                os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, dir_fd=folder))
            landing.folder("only/folder")
            landing.folder("")
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
            "a/b/c", "a/b/d", "a/b/g", "a/f", "e",
        ]  # fmt: skip
        assert (tmp_path / "only/folder").is_dir()

    @pytest.mark.parametrize("path", ["", "../x", "/x", "a/../../x", "a//b", "."])
    def test_paths_that_lead_out(self, tmp_path: Path, path: str) -> None:
        with SafeFolder(str(tmp_path)) as landing, pytest.raises(TreeError):
            landing.place(path)

    def test_no_descriptor_leaks(self, tmp_path: Path) -> None:
        gc.collect()  # what earlier tests left open
        before = len(os.listdir("/proc/self/fd"))
        (tmp_path / "file").touch()
        with SafeFolder(str(tmp_path)) as landing:
            for number in range(50):
                landing.place(f"a/{number}/b/c")
                with pytest.raises(TreeError):
                    landing.place("file/x/y")
                landing.folder("")
        assert len(os.listdir("/proc/self/fd")) == before

    @pytest.mark.parametrize("target", ["outside", "../outside", "/"])
    def test_a_link_on_the_way(self, tmp_path: Path, target: str) -> None:
        root, outside = tmp_path / "root", tmp_path / "outside"
        root.mkdir()
        outside.mkdir()
        (root / "a").symlink_to(outside if target == "outside" else target)
        with SafeFolder(str(root)) as landing:
            for path in ("a/x", "a/b/x"):
                with pytest.raises(TreeError):
                    landing.place(path)
        assert not list(outside.iterdir())


def test_one_tree_laid_over_another() -> None:
    below, _ = tree_of({"a": b"1", "b/c": b"2", "b/d": b"3", "e": b"4", "g/h/i": b"5", "keep": None})
    above, _ = tree_of({"a": "-> x", "b": b"6", "e/f": b"7", "g/j": b"8"})
    together, _ = tree_of({"a": "-> x", "b": b"6", "e/f": b"7", "g/j": b"8", "g/h/i": b"5", "keep": None})
    assert laid_over(below, above).digest == together.digest
