"""What is sent with a run, against real git in temporary folders."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remoterun.agent.shared.tree import Entry, Manifest
from remoterun.errors import RemoterunError, SourceError, UsageError
from remoterun.source import NoRepository, Source, mentioned, snapshot
from remoterun.source.git import _SETTINGS
from remoterun.source.repository import without_credentials
from tests.recorder import Recorded
from tests.workshop import git

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

HOSTILE_SETTINGS = """
[diff]
    noprefix = true
    mnemonicPrefix = true
    external = /bin/false
    relative = true
    renames = copies
    algorithm = patience
    context = 0
    submodule = log
    ignoreSubmodules = all
    autoRefreshIndex = false
    suppressBlankEmpty = true
    interHunkContext = 9
    wsErrorHighlight = all
    colorMoved = zebra
    orderFile = /nonexistent
[color]
    ui = always
    diff = always
[core]
    quotepath = false
    fsmonitor = true
    untrackedCache = true
    splitIndex = true
    hooksPath = /nonexistent
    pager = false
    attributesFile = /nonexistent
[status]
    showUntrackedFiles = no
[log]
    showSignature = true
    decorate = full
    follow = true
[format]
    pretty = oneline
[pager]
    diff = true
[advice]
    detachedHead = false
[i18n]
    logOutputEncoding = ISO-8859-1
"""


@pytest.fixture(autouse=True)
def own_git(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Git that knows no settings but those written to the file returned."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    config = home / ".gitconfig"
    config.write_text(
        '[user]\n name = A\n email = a@example.org\n[init]\n defaultBranch = main\n[protocol "file"]\n allow = always\n'
    )
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", tempfile.gettempdir())
    return config


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with one commit."""
    top = tmp_path / "repo"
    make_repo(top)
    write(top / "train.py", "print('train')\n")
    write(top / "pkg/model.py", "LAYERS = 2\n")
    commit(top, "first\n\nmore words")
    return top


def make_repo(top: Path, *options: str) -> None:
    subprocess.run(["git", "init", "-q", *options, str(top)], check=True)


def commit(top: Path, message: str) -> str:
    git(top, "add", "-A")
    git(top, "commit", "-q", "--allow-empty", "-m", message)
    return git(top, "rev-parse", "HEAD").decode().strip()


def write(path: Path, text: str | bytes, executable: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o755 if executable else 0o644)
    return path


def sent(source: Source) -> dict[str, tuple[str, bytes | str]]:
    """Path → what would arrive: kind (file, program, link) and content. Checks what holds for every source."""
    arrived: dict[str, tuple[str, bytes | str]] = {}
    entries = [Entry("d", path) for path in source.empty_dirs]
    for file in source.files:
        assert file.path not in arrived
        if file.kind == "link":
            arrived[file.path] = ("link", file.target)
            entries.append(Entry("l", file.path, target=file.target))
        else:
            content = Path(file.origin).read_bytes()
            assert os.path.isabs(file.origin) and len(content) == file.size
            arrived[file.path] = ("program" if file.executable else "file", content)
            entries.append(Entry("f", file.path, file.size, "", file.executable))
    Manifest(entries)  # the host will take it
    assert [file.path for file in source.files] == sorted(arrived, key=os.fsencode)
    assert source.total_size() == sum(len(content) for kind, content in arrived.values() if kind != "link")
    assert all("\n" not in warning and not warning.endswith(".") for warning in source.warnings)
    return arrived


def on_disk(top: Path) -> dict[str, tuple[str, bytes | str]]:
    """The same for a folder, without `.git`."""
    found: dict[str, tuple[str, bytes | str]] = {}
    for folder, names, files in os.walk(top):
        names[:] = [name for name in names if name != ".git"]
        for name in [*files, *(name for name in names if os.path.islink(os.path.join(folder, name)))]:
            if name == ".git":
                continue
            path = os.path.join(folder, name)
            status = os.lstat(path)
            relative = os.path.relpath(path, top)
            if stat.S_ISLNK(status.st_mode):
                found[relative] = ("link", os.readlink(path))
            else:
                kind = "program" if status.st_mode & 0o100 else "file"
                found[relative] = (kind, Path(path).read_bytes())
    return found


def fingerprint(folder: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else b""
        # the time of a shared index says when it was last read, so that git knows when it may go
        time = 0 if path.name.startswith("sharedindex.") else status.st_mtime_ns
        found[str(path)] = (status.st_mode, time, hashlib.sha256(content).hexdigest())
    return found


def shown(source: Source) -> str:
    """All that is sent of a source and told of it, a line each."""
    about = ("root", "workdir", "commit", "branch", "subject", "remote", "dirty", "untracked", "empty_dirs", "warnings")
    lines = [f"{kind} {path!r}: {content!r}" for path, (kind, content) in sent(source).items()]
    return "\n".join([*lines, *(f"{name}: {value!r}" for name in about if (value := getattr(source, name)))])


def of_commit(top: Path, ref: str = "HEAD") -> dict[str, tuple[str, bytes | str]]:
    """What a commit would bring."""
    with snapshot(top, commit_ref=ref) as source:
        return sent(source)


def refused(recorded: Recorded, folder: Path, error: type[RemoterunError] = SourceError, **options: Any) -> None:
    """The error is recorded, with its kind and its hint."""
    with recorded.raises(error):
        snapshot(folder, **options)


def apply(diff: bytes, top: Path) -> None:
    """`git apply` as a user with default settings would."""
    if diff:
        subprocess.run(["git", "apply", "--index", "-"], cwd=top, input=diff, check=True)


# --- the work tree ----------------------------------------------------------------------------------------------------


def test_a_clean_repository(repo: Path, recorded: Recorded) -> None:
    git(repo, "remote", "add", "origin", "https://me:token@example.org/repo.git")
    source = snapshot(repo)
    recorded.same(shown(source))
    source.close()
    source.close()


def test_changes_staged_and_not_are_sent_as_they_are_on_disk(repo: Path, tmp_path: Path) -> None:
    write(repo / "gone.py", "old\n")
    write(repo / "staged_gone.py", "old\n")
    write(repo / "bin.dat", bytes(range(256)))
    write(repo / "run.sh", "#!/bin/sh\n")
    commit(repo, "second")
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", str(repo), str(clean))

    write(repo / "train.py", "staged\n")
    git(repo, "add", "train.py")
    write(repo / "train.py", "staged, then changed without a newline")
    write(repo / "new.py", "new\n")
    git(repo, "add", "new.py")
    write(repo / "intent.py", "add -N\n")
    git(repo, "add", "-N", "intent.py")
    os.symlink("../train.py", repo / "pkg/link.py")
    git(repo, "add", "pkg/link.py")
    (repo / "gone.py").unlink()
    git(repo, "rm", "-q", "staged_gone.py")
    write(repo / "bin.dat", bytes(reversed(range(256))) * 3)
    write(repo / "run.sh", "#!/bin/sh\n", executable=True)
    git(repo, "mv", "pkg/model.py", "pkg/net.py")

    source = snapshot(repo)
    assert sent(source) == on_disk(repo)
    assert source.dirty and not source.untracked
    apply(source.diff, clean)
    assert on_disk(clean) == on_disk(repo)


def test_a_file_only_touched_is_no_change(repo: Path) -> None:
    os.utime(repo / "train.py", (1, 1))
    source = snapshot(repo)
    assert (source.dirty, source.diff) == (False, b"")


def test_the_command_starts_in_the_folder_it_was_typed_in(repo: Path, tmp_path: Path) -> None:
    os.symlink(repo / "pkg", tmp_path / "short")
    for start in (repo / "pkg", tmp_path / "short"):
        source = snapshot(start)
        assert (source.root, source.workdir, len(source.files)) == (str(repo), "pkg", 2)


def test_a_new_folder_is_a_warning_and_an_ignored_one_an_error(repo: Path, recorded: Recorded) -> None:
    write(repo / ".gitignore", "build/\n")
    for name in ("empty", ":(top)odd"):
        (repo / name).mkdir()
        recorded.same(snapshot(repo / name).warnings[0])
    write(repo / ".gitignore", "build/\n:*\n")
    (repo / "build/deep").mkdir(parents=True)
    for name in (":(top)odd", "build/deep"):
        refused(recorded, repo / name)
    write(repo / "build/deep/kept.py", "x")
    git(repo, "add", "-f", "build/deep/kept.py")
    assert snapshot(repo / "build/deep").warnings == ()


ODD_NAMES = [
    b"with space.py",
    b"-rf",
    b"--help",
    b"quo\"te'.py",
    b"back\\slash",
    b"new\nline",
    b"ends in newline\n",
    b"tab\there",
    "naïve-日本語-🎲".encode(),
    b"latin-\xe9\xff",
    b"$HOME",
    b"~",
    b":(top)magic",
    b"*",
    b"[a]",
    b"#hash",
    b"!bang",
    b"%s",
]


def test_names_of_any_kind(repo: Path, tmp_path: Path) -> None:
    for name in ODD_NAMES:
        write(repo / os.fsdecode(name) / os.fsdecode(name), name)
    clean = tmp_path / "clean"
    commit(repo, "odd")
    git(tmp_path, "clone", "-q", str(repo), str(clean))
    for name in ODD_NAMES:
        write(repo / os.fsdecode(name) / os.fsdecode(name), name * 2, executable=True)
        write(repo / os.fsdecode(b"untracked " + name), name)
    for include in (False, True):
        source = snapshot(repo, include_untracked=include)
        expected = on_disk(repo)
        if not include:
            expected = {path: what for path, what in expected.items() if not path.startswith("untracked ")}
        assert sent(source) == expected
        assert {os.fsencode(path) for path in source.untracked} == {b"untracked " + name for name in ODD_NAMES}
    for name in ODD_NAMES:
        assert snapshot(repo / os.fsdecode(name)).workdir == os.fsdecode(name)
    apply(source.diff, clean)
    assert on_disk(clean) == {p: what for p, what in on_disk(repo).items() if not p.startswith("untracked ")}


def test_a_repository_in_a_folder_of_any_name(tmp_path: Path) -> None:
    for name in ("$HOME", "~", "a\nb\n", "latin-\udce9", " ", "-n"):
        make_repo(top := tmp_path / name)
        write(top / "sub/a", "x")
        first = commit(top, "one")
        source = snapshot(top / "sub")
        assert (source.root, source.workdir) == (str(top), "sub")
        assert of_commit(top / "sub", first) == sent(source) == {"sub/a": ("file", b"x")}


def test_a_repository_without_commits(tmp_path: Path, recorded: Recorded) -> None:
    top = tmp_path / "new"
    make_repo(top)
    recorded.same(shown(snapshot(top)), "empty")
    write(top / "a.py", "a")
    git(top, "add", "a.py")
    write(top / "b.py", "b")
    source = snapshot(top)
    recorded.same(shown(source), "with a file")
    make_repo(tmp_path / "clean")
    apply(source.diff, tmp_path / "clean")
    assert on_disk(tmp_path / "clean") == sent(source)
    refused(recorded, top, UsageError, commit_ref="HEAD")


def test_untracked_files_by_gits_own_rules(repo: Path, own_git: Path, recorded: Recorded) -> None:
    write(own_git.parent / "ignore", "*.global\n")
    git(repo, "config", "--global", "core.excludesFile", str(own_git.parent / "ignore"))
    write(repo / ".git/info/exclude", "*.private\n")
    write(repo / ".gitignore", "*.log\n!keep.log\n")
    write(repo / "pkg/.gitignore", "*.tmp\n")
    commit(repo, "rules")
    for name in ("a.global", "a.private", "a.log", "pkg/a.tmp", ".DS_Store", "pkg/.DS_Store"):
        write(repo / name, "ignored")
    for name in ("keep.log", "a.tmp", "data/input.txt", "pkg/new.py"):
        write(repo / name, "untracked", executable=True)
    recorded.same(shown(snapshot(repo / "pkg")), "without them")
    recorded.same(shown(snapshot(repo / "pkg", include_untracked=True)), "with them")


def test_an_untracked_repository_inside(repo: Path, recorded: Recorded) -> None:
    make_repo(repo / "vendor/lib")
    write(repo / "vendor/lib/.gitignore", "*.o\n")
    write(repo / "vendor/lib/lib.py", "x")
    commit(repo / "vendor/lib", "lib")
    write(repo / "vendor/lib/new.py", "y")
    write(repo / "vendor/lib/a.o", "object")
    assert snapshot(repo).untracked == ("vendor/lib/",)
    source = snapshot(repo, include_untracked=True)
    recorded.same(shown(source))
    assert b"vendor" not in source.diff


def test_types_that_changed_on_disk(repo: Path, tmp_path: Path, recorded: Recorded) -> None:
    for name in ("file_to_dir", "file_to_link", "dir_to_file/a", "dir_to_link/a", "dir_to_link/b/c", "dir_gone/x"):
        write(repo / name, name)
    os.symlink("train.py", repo / "link_to_file")
    os.symlink("pkg", repo / "link_to_dir")
    write(tmp_path / "elsewhere/a", "not ours")
    write(tmp_path / "elsewhere/b/c", "not ours")
    commit(repo, "types")
    for name in ("file_to_dir", "file_to_link", "link_to_file", "link_to_dir"):
        (repo / name).unlink()
    for name in ("dir_to_file", "dir_to_link", "dir_gone"):
        shutil.rmtree(repo / name)
    write(repo / "file_to_dir/inner", "inner")
    os.symlink("/etc/passwd", repo / "file_to_link")
    write(repo / "dir_to_file", "now a file")
    os.symlink(tmp_path / "elsewhere", repo / "dir_to_link")
    write(repo / "link_to_file", "now a file")
    write(repo / "link_to_dir/inner", "inner")
    recorded.same(shown(snapshot(repo)))
    assert sent(snapshot(repo, include_untracked=True)) == on_disk(repo)


def test_a_pipe_in_a_files_place_is_left_out_by_name(repo: Path, recorded: Recorded) -> None:
    (repo / "train.py").unlink()
    os.mkfifo(repo / "train.py")
    recorded.same(shown(snapshot(repo, include_untracked=True)))


def test_a_merge_with_conflicts(repo: Path) -> None:
    git(repo, "checkout", "-q", "-b", "other")
    write(repo / "train.py", "theirs\n")
    commit(repo, "theirs")
    git(repo, "checkout", "-q", "main")
    write(repo / "train.py", "ours\n")
    commit(repo, "ours")
    subprocess.run(["git", "-C", str(repo), "merge", "other"], capture_output=True, check=False)
    source = snapshot(repo)
    assert sent(source) == on_disk(repo)
    assert b"<<<<<<<" in (repo / "train.py").read_bytes() and b"<<<<<<<" in source.diff


def test_a_sparse_checkout_is_a_warning(repo: Path, recorded: Recorded) -> None:
    git(repo, "sparse-checkout", "set", "--no-cone", "/train.py")
    recorded.same(shown(snapshot(repo)))
    assert set(of_commit(repo)) == {"train.py", "pkg/model.py"}


def test_a_disk_without_exec_bits(repo: Path) -> None:
    write(repo / "run.sh", "x", executable=True)
    commit(repo, "modes")
    git(repo, "config", "core.fileMode", "false")
    (repo / "run.sh").chmod(0o644)
    (repo / "train.py").chmod(0o755)
    arrived = sent(snapshot(repo))
    assert arrived["run.sh"][0] == "program" and arrived["train.py"][0] == "file"


def test_a_detached_head_has_no_branch(repo: Path) -> None:
    git(repo, "checkout", "-q", "--detach")
    assert snapshot(repo).branch is None


def test_the_remote_is_the_one_the_branch_follows(repo: Path) -> None:
    assert snapshot(repo).remote is None
    git(repo, "remote", "add", "alone", "git@example.org:me/alone.git")
    assert snapshot(repo).remote == "git@example.org:me/alone.git"
    git(repo, "remote", "add", "origin", "https://example.org/origin")
    assert snapshot(repo).remote == "https://example.org/origin"
    git(repo, "config", "branch.main.remote", "alone")
    assert snapshot(repo).remote == "git@example.org:me/alone.git"


def test_urls_lose_their_credentials(recorded: Recorded) -> None:
    recorded.cases(without_credentials)


def test_a_diff_that_would_be_too_large_leaves_files_out_whole(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(repo / "big.bin", os.urandom(3000))
    write(repo / "small.py", "a\n")
    commit(repo, "big")
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", str(repo), str(clean))
    monkeypatch.setattr("remoterun.source.work_tree.DIFFED", 1000)
    write(repo / "small.py", "b\n")
    write(repo / "big.bin", os.urandom(3000))
    write(repo / "*", os.urandom(2000))
    git(repo, "add", "*")
    source = snapshot(repo)
    assert sent(source) == on_disk(repo)
    assert source.dirty
    assert "the recorded diff leaves out `*`, `big.bin`" in source.warnings[0]
    apply(source.diff, clean)
    assert on_disk(clean)["small.py"] == ("file", b"b\n")
    monkeypatch.setattr("remoterun.source.work_tree._MOST_EXCLUDED", 1)
    assert (snapshot(repo).diff, snapshot(repo).dirty) == (b"", True)
    monkeypatch.setattr("remoterun.source.work_tree._MOST_EXCLUDED", 500)
    monkeypatch.setattr("remoterun.source.work_tree.DIFF_LIMIT", 10)
    assert (snapshot(repo).diff, snapshot(repo).dirty) == (b"", True)


# --- nothing of the user's is touched, nothing of the user's settings matters -----------------------------------------


def test_the_users_repository_is_byte_for_byte_the_same_after(repo: Path) -> None:
    git(repo, "config", "core.splitIndex", "true")
    git(repo, "config", "core.untrackedCache", "true")
    write(repo / "pkg/other.py", "x")
    commit(repo, "more")
    os.utime(repo / "train.py", (1, 1))  # stat-dirty: `git status` would rewrite the index
    write(repo / "pkg/model.py", "changed")
    write(repo / "untracked", "x")
    hook = '#!/bin/sh\ntouch "$GIT_DIR/hook-ran"\n'
    for name in ("post-checkout", "post-index-change"):
        write(repo / ".git/hooks" / name, hook, executable=True)
    before = fingerprint(repo)
    snapshot(repo)
    snapshot(repo, include_untracked=True)
    snapshot(repo, commit_ref="HEAD~1").close()
    assert fingerprint(repo) == before


def test_settings_change_nothing(repo: Path, own_git: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(repo / "naïve.py", "a\r\nb\r\n")
    write(repo / "text.py", "".join(f"{n}\n\n" for n in range(40)))
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "-m", "Grüße")
    write(repo / "naïve.py", "a\r\nc\r\n")
    text = (repo / "text.py").read_text()
    write(repo / "text.py", text.replace("3\n", "three\n"))
    git(repo, "mv", "train.py", "moved.py")
    write(repo / "pkg/new.py", "untracked")
    os.utime(repo / "pkg/model.py", (1, 1))
    plain = snapshot(repo / "pkg", include_untracked=True)
    plain_commit = of_commit(repo)
    own_git.write_text(own_git.read_text() + HOSTILE_SETTINGS)
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/bin/false")
    monkeypatch.setenv("GIT_DIFF_OPTS", "--unified=0")
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    monkeypatch.setenv("GIT_PAGER", "/bin/false")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    monkeypatch.setenv("LANGUAGE", "de")
    monkeypatch.setenv("LC_ALL", "C")
    assert snapshot(repo / "pkg", include_untracked=True) == plain
    assert plain.subject == "Grüße"
    assert of_commit(repo) == plain_commit
    assert not list((repo / ".git").glob("fsmonitor--daemon*"))


def test_line_ends_arrive_as_they_are(repo: Path) -> None:
    write(repo / "unix.txt", "a\nb\n")
    write(repo / "dos.txt", "a\r\nb\r\n")
    commit(repo, "line ends")
    git(repo, "config", "core.eol", "crlf")
    for autocrlf in ("true", "input", "false"):
        git(repo, "config", "core.autocrlf", autocrlf)
        assert sent(snapshot(repo)) == of_commit(repo) == on_disk(repo), autocrlf


def test_a_hooks_environment_is_not_ours(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = snapshot(repo / "pkg")
    other = tmp_path / "other"
    make_repo(other)
    for name, value in {
        "GIT_DIR": f"{other}/.git",
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": f"{other}/.git/index",
        "GIT_OBJECT_DIRECTORY": f"{other}/.git/objects",
        "GIT_PREFIX": "pkg/",
    }.items():
        monkeypatch.setenv(name, value)
    assert snapshot(repo / "pkg") == plain
    assert set(of_commit(repo)) == set(sent(plain))


def test_the_number_of_git_calls_does_not_grow_with_the_tree(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calls() -> int:
        events = tmp_path / "events"
        monkeypatch.setenv("GIT_TRACE2_EVENT", str(events))
        snapshot(repo)
        monkeypatch.delenv("GIT_TRACE2_EVENT")
        found = [json.loads(line)["event"] for line in events.read_text().splitlines()]
        events.unlink()
        return found.count("start")

    snapshot(repo)
    before = calls()
    for number in range(1000):
        write(repo / f"many/{number % 20}/{number}.py", f"{number}\n")
    commit(repo, "many")
    assert calls() == before <= 12


# --- one commit -------------------------------------------------------------------------------------------------------


def test_a_commit_arrives_exactly(repo: Path, tmp_path: Path) -> None:
    write(repo / "run.sh", "#!/bin/sh\n", executable=True)
    write(repo / os.fsdecode(b"latin-\xe9\n"), bytes(range(256)))
    os.symlink("../train.py", repo / "pkg/link")
    second = commit(repo, "second")
    expected = on_disk(repo)
    git(repo, "tag", "v1")
    git(repo, "rm", "-q", "-r", "pkg")
    write(repo / "train.py", "third\n")
    commit(repo, "third")
    write(repo / "train.py", "uncommitted\n")
    write(repo / "untracked", "x")
    before = fingerprint(repo)
    for ref in (second, second[:8], "v1", "HEAD~1", "main~1", ":/second"):
        with snapshot(repo, commit_ref=ref) as source:
            assert sent(source) == expected
            assert (source.commit, source.subject, source.root) == (second, "second", str(repo))
            assert (source.dirty, source.diff, source.untracked, source.branch) == (False, b"", (), None)
            origins = [Path(file.origin) for file in source.files if file.kind == "file"]
            assert all(origin.exists() for origin in origins)
        assert not any(origin.exists() for origin in origins)
    with snapshot(repo, commit_ref="main") as source:
        assert (source.branch, source.subject) == ("main", "third")
    assert fingerprint(repo) == before


def test_attributes_and_filters_are_those_of_the_commit(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Git LFS: the pointer is in the commit, the content comes from a filter."""
    write(repo / ".gitattributes", "*.big filter=fake\n")
    write(repo / "model.big", "pointer\n")
    first = commit(repo, "pointer")
    git(repo, "config", "filter.fake.smudge", "sed s/pointer/content/")
    git(repo, "config", "filter.fake.required", "true")
    write(repo / ".gitattributes", "*.py filter=fake\n")  # not the commit's
    arrived = of_commit(repo, first)
    assert (arrived["model.big"], arrived["train.py"]) == (("file", b"content\n"), ("file", b"print('train')\n"))
    git(repo, "config", "filter.fake.smudge", "false")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(SourceError, match="model.big") as caught:
        snapshot(repo, commit_ref=first)
    assert caught.value.evidence
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_that_is_not_in_the_commit(repo: Path, recorded: Recorded) -> None:
    write(repo / "later/a.py", "x")
    write(repo / "pkg2", "x")
    commit(repo, "later")
    refused(recorded, repo / "later", commit_ref="HEAD~1")
    with snapshot(repo / "pkg", commit_ref="HEAD~1") as source:
        assert source.workdir == "pkg"


def test_a_ref_that_names_no_commit(repo: Path, recorded: Recorded) -> None:
    """Also one that is mistyped, which gets a suggestion."""
    git(repo, "branch", "feature/attention")
    git(repo, "tag", "v1.2")
    recorded.cases(lambda ref: snapshot(repo, commit_ref=ref), UsageError)


def test_a_ref_of_the_remote_is_suggested(repo: Path, tmp_path: Path, recorded: Recorded) -> None:
    git(repo, "branch", "feature/attention")
    git(tmp_path, "clone", "-q", str(repo), str(tmp_path / "clone"))
    refused(recorded, tmp_path / "clone", UsageError, commit_ref="feature/attention")


def test_combinations_that_make_no_sense(repo: Path, recorded: Recorded) -> None:
    refused(recorded, repo, UsageError, commit_ref="HEAD", no_git=True)
    refused(recorded, repo, UsageError, commit_ref="HEAD", include_untracked=True)
    refused(recorded, repo / "nowhere", UsageError)


# --- submodules and work trees ----------------------------------------------------------------------------------------


@pytest.fixture
def family(repo: Path, tmp_path: Path) -> Path:
    """`repo` with the submodule `libs/mid`, and in it `inner`."""
    for name in ("inner", "mid"):
        make_repo(tmp_path / name)
        write(tmp_path / name / f"{name}.py", f"{name} 1\n")
        commit(tmp_path / name, name)
    git(tmp_path / "mid", "submodule", "--quiet", "add", str(tmp_path / "inner"), "inner")
    commit(tmp_path / "mid", "with inner")
    git(repo, "submodule", "--quiet", "add", str(tmp_path / "mid"), "libs/mid")
    git(repo, "submodule", "--quiet", "update", "--init", "--recursive")
    commit(repo, "with mid")
    return repo


@pytest.mark.parametrize("kind", ["file", "link", "linked work tree", "submodule"])
def test_a_git_dir_of_another_work_tree(family: Path, tmp_path: Path, kind: str, recorded: Recorded) -> None:
    """An archive names that of a project that lies beside it, whose files would be sent, as deleted ones."""
    archive = sent_of = tmp_path / "archive"
    other = family / ".git"
    if kind == "linked work tree":
        git(family, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
        other /= "worktrees/side"
    elif kind == "submodule":
        make_repo(archive)
        shutil.copytree(family / "libs/mid", archive / "mid", ignore=shutil.ignore_patterns(".git", "inner"))
        git(archive, "update-index", "--add", "--cacheinfo", "160000", "0" * 39 + "1", "mid")
        sent_of, other = archive / "mid", family / ".git/modules/libs/mid"
    write(sent_of / "evil.py", "pass\n")
    if kind == "link":
        (sent_of / ".git").symlink_to(other)
    else:
        write(sent_of / ".git", f"gitdir: {other}\n")
    refused(recorded, archive)
    if kind == "file":
        refused(recorded, archive, include_untracked=True)


@pytest.mark.parametrize("part", ["commondir", "objects", "refs", "refs/heads/main"])
def test_a_git_dir_with_parts_of_another_one(repo: Path, tmp_path: Path, part: str, recorded: Recorded) -> None:
    """A folder `.git` of an archive whose objects, or branches, are those of a project that lies beside it."""
    make_repo(archive := tmp_path / "archive")
    write(archive / "evil.py", "pass\n")
    commit(archive, "evil")
    assert sent(snapshot(archive)) == on_disk(archive)
    mine, other = archive / ".git" / part, repo / ".git" / part
    if part == "commondir":
        write(mine, "../../repo/.git\n")
    else:
        shutil.rmtree(mine, ignore_errors=True)
        mine.unlink(missing_ok=True)
        mine.symlink_to(other)
    refused(recorded, archive)


def test_a_git_dir_that_lies_elsewhere(repo: Path, tmp_path: Path) -> None:
    """Made so by a person, who says that it belongs here."""
    (repo / ".git").rename(tmp_path / "apart")
    write(repo / ".git", "gitdir: ../apart\n")
    with pytest.raises(SourceError, match="which does not lead back") as caught:
        snapshot(repo)
    subprocess.run(shlex.split((caught.value.hint or "").splitlines()[1].partition("   ")[0]), check=True)
    assert sent(snapshot(repo)) == on_disk(repo)


def test_submodules_are_sent_with_their_changes(family: Path, tmp_path: Path, recorded: Recorded) -> None:
    clean = tmp_path / "clean"
    git(tmp_path, "clone", "-q", "--recurse-submodules", str(family), str(clean))
    assert sent(snapshot(family)) == on_disk(family)
    recorded.same(shown(snapshot(family)), "clean")
    write(family / "libs/mid/inner/inner.py", "changed\n")
    write(family / "libs/mid/staged.py", "staged\n")
    git(family / "libs/mid", "add", "staged.py")
    write(family / "libs/mid/inner/untracked.py", "untracked\n")
    write(family / "train.py", "changed\n")
    source = snapshot(family)
    recorded.same(shown(source), "changed")
    assert sent(snapshot(family, include_untracked=True)) == on_disk(family)
    subprocess.run(["git", "apply", "-"], cwd=clean, input=source.diff, check=True)
    assert on_disk(clean) == sent(source)


def test_a_submodule_that_is_not_there_is_a_warning(family: Path, tmp_path: Path, recorded: Recorded) -> None:
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(family), str(clone))
    source = snapshot(clone)
    recorded.same(shown(source), "not there")
    with snapshot(clone, commit_ref="HEAD") as at_commit:
        assert at_commit.warnings == source.warnings
    line = source.warnings[0].split("`")[3]
    subprocess.run(line, shell=True, check=True, capture_output=True)  # noqa: S602
    assert snapshot(clone).warnings == () and "libs/mid/inner/inner.py" in sent(snapshot(clone))
    (clone / "libs/mid/.git").unlink()
    (clone / "libs/mid/.git").mkdir()
    recorded.same(snapshot(clone).warnings[0], "without its git dir")
    shutil.rmtree(clone / "libs/mid")
    write(clone / "libs/mid", "a file now")
    assert sent(snapshot(clone))["libs/mid"] == ("file", b"a file now")


def test_submodules_at_the_commit_that_names_them(family: Path, tmp_path: Path) -> None:
    expected = on_disk(family)
    write(family / "libs/mid/inner/inner.py", "inner 2\n")
    commit(family / "libs/mid/inner", "inner 2")
    write(family / "libs/mid/mid.py", "mid 2\n")
    commit(family / "libs/mid", "mid 2")
    commit(family, "all 2")
    second = on_disk(family)
    write(family / "libs/mid/mid.py", "uncommitted\n")
    with snapshot(family, commit_ref="HEAD~1") as source:
        assert sent(source) == expected and source.warnings == ()
    with snapshot(family / "libs", commit_ref="HEAD") as source:
        assert sent(source) == second and source.workdir == "libs"


def test_a_submodule_that_lacks_the_commit(family: Path, tmp_path: Path) -> None:
    write(tmp_path / "mid/mid.py", "newer\n")
    newer = commit(tmp_path / "mid", "newer")
    git(family, "update-index", "--cacheinfo", f"160000,{newer},libs/mid")
    git(family, "commit", "-q", "-m", "points at what was never fetched")
    with pytest.raises(SourceError, match=f"`libs/mid` lacks commit {newer[:10]}") as caught:
        snapshot(family, commit_ref="HEAD")
    assert caught.value.hint
    subprocess.run(caught.value.hint.strip("`"), shell=True, check=True, capture_output=True)  # noqa: S602
    assert of_commit(family)["libs/mid/mid.py"] == ("file", b"newer\n")


def test_inside_a_submodule_the_submodule_is_the_repository(family: Path, recorded: Recorded) -> None:
    recorded.same(shown(snapshot(family / "libs/mid/inner")))


def test_linked_work_trees(repo: Path, tmp_path: Path) -> None:
    git(repo, "worktree", "add", "-q", "-b", "side", str(tmp_path / "side"))
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(repo), str(bare))
    git(bare, "worktree", "add", "-q", str(tmp_path / "of-bare"), "side")
    for top in (tmp_path / "side", tmp_path / "of-bare"):
        write(top / "train.py", "side\n")
        source = snapshot(top / "pkg")
        assert sent(source) == on_disk(top)
        assert (source.root, source.workdir, source.branch, source.dirty) == (str(top), "pkg", "side", True)
        assert of_commit(top)["train.py"] == ("file", b"print('train')\n")


# --- what can't be sent -----------------------------------------------------------------------------------------------


def test_no_repository(tmp_path: Path, recorded: Recorded) -> None:
    refused(recorded, tmp_path, NoRepository)


def test_git_folders_are_not_work_trees(repo: Path, tmp_path: Path, own_git: Path, recorded: Recorded) -> None:
    for folder in (repo / ".git", repo / ".git/refs"):
        refused(recorded, folder)
    bare = tmp_path / "bare.git"
    make_repo(bare, "--bare")
    for setting in ("all", "explicit"):
        git(tmp_path, "config", "--global", "safe.bareRepository", setting)
        refused(recorded, bare)


@pytest.mark.parametrize("git_is", ["new", "old"])
@pytest.mark.parametrize("worktree", [".", "../.."])
def test_a_bare_repository_of_a_clone_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worktree: str, git_is: str
) -> None:
    """Its `config` names a work tree and a filter: git takes them where one stands in the folder, as it has no `.git`.
    Git before 2.38 knows no `safe.bareRepository`."""
    if git_is == "old":
        monkeypatch.setitem(_SETTINGS, "safe.bareRepository", "all")
    top, inner = tmp_path / "top", tmp_path / "inner"
    make_repo(top)
    make_repo(inner)
    below = inner if worktree == "." else inner / "models/m"
    write(below / "train.py", "print(1)\n")
    write(below / ".gitattributes", "*.py filter=x\n")
    commit(inner, "inner")
    shutil.copytree(inner / ".git", top / "models/m")
    write(top / "models/m/train.py", "print(2)\n")
    write(top / "models/m/.gitattributes", "*.py filter=x\n")
    filters = f'[filter "x"]\nclean="touch {tmp_path}/ran; cat"\n'
    write(top / "models/m/config", f"[core]\nrepositoryformatversion=0\nbare=false\nworktree={worktree}\n{filters}")
    for folder in (top / "models/m", top / "models/m/refs"):
        with pytest.raises(SourceError, match="is a folder of git's own"):
            snapshot(folder)
    assert not (tmp_path / "ran").exists()
    subprocess.run(["git", "status"], cwd=top / "models/m", capture_output=True)
    assert (tmp_path / "ran").exists(), "git alone starts it"


def test_a_repository_that_is_broken(tmp_path: Path, recorded: Recorded) -> None:
    write(tmp_path / "lost/.git", "gitdir: /nonexistent/modules/lost\n")
    refused(recorded, tmp_path / "lost")
    make_repo(tmp_path / "bad")
    write(tmp_path / "bad/a", "x")
    commit(tmp_path / "bad", "one")
    write(tmp_path / "bad/.git/index", "rubbish")
    with pytest.raises(SourceError, match="git fails in .*: index file") as caught:
        snapshot(tmp_path / "bad")
    assert caught.value.evidence


def test_someone_elses_repository(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(SourceError, match="doesn't trust") as caught:
        snapshot(repo)
    assert caught.value.hint == f"`git config --global --add safe.directory {repo}`"


def test_git_is_not_installed(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(recorded, repo)
    assert set(sent(snapshot(repo, no_git=True))) == {"train.py", "pkg/model.py"}


def test_git_that_does_not_start_is_an_error_at_first_import(repo: Path, tmp_path: Path) -> None:
    write(tmp_path / "bin/git", "#!/bin/sh\necho no developer tools >&2\nexit 1\n", executable=True)
    program = (
        "import sys, pathlib, remoterun.source as s, remoterun.errors as e\n"
        "try: s.snapshot(pathlib.Path(sys.argv[1]))\n"
        "except e.SourceError as error: print(error.message)\n"
    )
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(repo)], capture_output=True, text=True, env=environment, check=True
    )
    assert "git" in done.stdout


def test_git_fetches_nothing_that_a_repository_lacks(repo: Path, tmp_path: Path) -> None:
    """A promisor remote may be a program."""
    write(repo / "big", "lacking")
    commit(repo, "big")
    digest = git(repo, "rev-parse", "HEAD:big").decode().strip()
    git(repo, "config", "remote.origin.url", f"ext::touch {tmp_path}/ran")
    git(repo, "config", "remote.origin.promisor", "true")
    git(repo, "config", "extensions.partialClone", "origin")
    git(repo, "config", "protocol.ext.allow", "always")
    (repo / ".git" / "objects" / digest[:2] / digest[2:]).unlink()
    write(repo / "big", "changed")
    with contextlib.suppress(SourceError):
        snapshot(repo)
    with pytest.raises(SourceError) as caught:
        snapshot(repo, commit_ref="HEAD")
    assert caught.value.hint == "`git checkout` of that commit fetches what a partial clone lacks"
    assert not (tmp_path / "ran").exists()


def test_a_call_of_git_that_hangs_is_ended(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(repo / ".gitattributes", "*.py filter=slow\n")
    commit(repo, "slow")
    git(repo, "config", "filter.slow.smudge", "sleep 60")
    monkeypatch.setattr("remoterun.source.git.GIT_DEADLINE", 0.5)
    with pytest.raises(SourceError, match="took longer than 0.5 s"):
        snapshot(repo, commit_ref="HEAD")


# --- a folder without git ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_an_ignore_file_without_an_end_is_refused(tmp_path: Path, target: str, recorded: Recorded) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".remoterunignore").symlink_to(target)
    refused(recorded, tmp_path, no_git=True)


@pytest.mark.parametrize("line", ["*" + "a*" * 40 + "b", "**/a/" * 10 + "b"], ids=["one name", "folders"])
def test_an_ignore_file_that_would_take_years_is_refused(tmp_path: Path, line: str, recorded: Recorded) -> None:
    write(tmp_path / "a/" / ("a" * 200), "x")
    write(tmp_path / ".remoterunignore", f"# {'*' * 9}\n{line}\n")
    refused(recorded, tmp_path, no_git=True)


def test_a_plain_folder(tmp_path: Path, recorded: Recorded) -> None:
    top = tmp_path / "plain"
    for name in ("a.py", "data/in.txt", "data/raw/big.bin", "a.log", "keep.log", "build/x", "deep/build/y", "#x", "é"):
        write(top / name, name)
    write(top / "run.sh", "x", executable=True)
    write(top / ".remoterunignore", "# a comment\r\n*.log\r\n!keep.log\r\n/build/\r\ndata/raw\r\n\\#x\r\n")
    os.symlink("a.py", top / "link")
    os.symlink("/mnt/data", top / "outside")
    (top / "empty/inner").mkdir(parents=True)
    for name in (".git/config", "deep/.git", ".DS_Store", "deep/.DS_Store", "deep/__pycache__/a.pyc"):
        write(top / name, "left out")
    write(top / ".venv/pyvenv.cfg", "home = /usr/bin")
    write(top / ".venv/lib/x.py", "x")
    write(top / os.fsdecode(b"latin-\xe9\n"), "odd")
    os.mkfifo(top / "pipe")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(top):  # a socket's path is limited to 108 bytes
        listener.bind("sock")
    recorded.same(shown(snapshot(top, no_git=True)))
    write(top / ".remoterunignore", "!__pycache__/\n!.git\n*.*\n!*.pyc\n.venv\n")
    recorded.same(shown(snapshot(top, no_git=True)), "with another file of what to ignore")


def test_no_git_ignores_the_repository(repo: Path, recorded: Recorded) -> None:
    write(repo / "pkg/untracked.py", "x")
    recorded.same(shown(snapshot(repo / "pkg", no_git=True)))


def test_a_whole_home_folder_is_not_sent_by_accident(own_git: Path) -> None:
    home = own_git.parent
    for folder in (home, home.parent, Path("/")):
        with pytest.raises(SourceError, match="home folder"):
            snapshot(folder, no_git=True)
    write(home / "project/a", "x")
    assert set(sent(snapshot(home / "project", no_git=True))) == {"a"}
    write(home / ".remoterunignore", ".gitconfig\n")
    assert set(sent(snapshot(home, no_git=True))) == {"project/a", ".remoterunignore"}


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(SourceError, match="can't read the folder `closed`"):
        snapshot(tmp_path, no_git=True)


# --- random trees -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c d", "é", "-x", "n\nl", '"q"', "\udcff", "*", ".hidden"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
CONTENTS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"", b"one\n", b"one\ntwo\n", b"no newline", b"\0\1\2" * 9, b"dos\r\n"]),
)
THINGS = st.one_of(
    st.tuples(st.just("file"), CONTENTS),
    st.tuples(st.just("program"), CONTENTS),
    st.tuples(st.just("link"), st.sampled_from(["../b", "nowhere", "/etc", "x\udcff"])),
    st.tuples(st.just("gone"), st.just("")),
)
STEPS = st.lists(st.tuples(PATHS, THINGS), max_size=6)


@pytest.fixture
def place() -> Iterator[Callable[[], Path]]:
    with tempfile.TemporaryDirectory() as folder:
        count = iter(range(10**6))
        yield lambda: Path(folder) / str(next(count))


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(committed=STEPS, staged=STEPS, unstaged=STEPS)
def test_random_trees(
    place: Callable[[], Path],
    committed: list[tuple[str, tuple[str, bytes | str]]],
    staged: list[tuple[str, tuple[str, bytes | str]]],
    unstaged: list[tuple[str, tuple[str, bytes | str]]],
) -> None:
    top = place()
    make_repo(top)
    lay(top, committed)
    head = commit(top, "one")
    at_head = on_disk(top)
    lay(top, staged)
    git(top, "add", "-A")
    lay(top, unstaged)
    before = fingerprint(top / ".git")

    source = snapshot(top)
    everything = snapshot(top, include_untracked=True)
    assert of_commit(top) == at_head
    assert fingerprint(top / ".git") == before

    assert sent(everything) == on_disk(top)
    assert source.commit == head and set(source.untracked) == set(sent(everything)) - set(sent(source))
    clean = place()
    git(top, "clone", "-q", "--no-local", str(top), str(clean))
    if source.diff:
        git(clean, "apply", "--index", "-", input=source.diff)
    assert on_disk(clean) == sent(source)
    # and what git itself would commit:
    index = place()
    shutil.copy2(top / ".git/index", index)  # its time tells git which files may have changed unseen
    environment = {**os.environ, "GIT_INDEX_FILE": str(index)}
    git(top, "add", "-u", env=environment)
    assert blobs(git(top, "ls-files", "-s", "-z", env=environment)) == {
        path: as_blob(*what) for path, what in sent(source).items()
    }
    assert source.dirty == bool(git(top, "diff", "--cached", "--raw", head, env=environment))


# -- Git LFS

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456789\n"


def test_pointers_of_git_lfs_are_named(repo: Path, recorded: Recorded) -> None:
    """What would be sent is 131 bytes in the place of a data set; nothing is read that can't be one."""
    write(repo / "data" / ".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
    for name, content in (("a.bin", POINTER), ("b.bin", POINTER), ("real.bin", b"\0" * 200), ("big.bin", POINTER * 20)):
        write(repo / "data" / name, content)
    head = commit(repo, "with pointers")
    recorded.same(snapshot(repo).warnings)
    with snapshot(repo, commit_ref=head) as source:
        recorded.same(source.warnings)
    write(repo / "data" / "a.bin", "content\n" * 30)
    recorded.same(snapshot(repo).warnings)
    (repo / "data" / ".gitattributes").write_text("*.bin binary\n")
    assert snapshot(repo).warnings == (), "a file that only looks like one"


# -- what a command names


def test_words_of_a_command_that_may_be_files(recorded: Recorded) -> None:
    """Each with the folder in which it starts, if that is another one."""
    recorded.cases(lambda line: mentioned(*line.split("  @ ")) if "  @ " in line else mentioned(line, ""))


def lay(top: Path, steps: list[tuple[str, tuple[str, bytes | str]]]) -> None:
    """Makes or removes what the steps name; what stands in the way goes."""
    for path, (kind, content) in steps:
        target = top / path
        parts = path.split("/")
        for length in range(1, len(parts)):
            parent = top / "/".join(parts[:length])
            if parent.is_symlink() or parent.is_file():
                parent.unlink()
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        elif target.is_symlink() or target.exists():
            target.unlink()
        if kind == "gone":
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "link":
            os.symlink(content, target)
        else:
            assert isinstance(content, bytes)
            write(target, content, executable=kind == "program")


def as_blob(kind: str, content: bytes | str) -> tuple[str, str]:
    data = os.fsencode(content)
    mode = {"file": "100644", "program": "100755", "link": "120000"}[kind]
    return mode, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def blobs(listing: bytes) -> dict[str, tuple[str, str]]:
    found = {}
    for line in listing.split(b"\0")[:-1]:
        about, _, name = line.partition(b"\t")
        mode, blob, _ = about.decode().split(" ")
        found[os.fsdecode(name)] = (mode, blob)
    return found
