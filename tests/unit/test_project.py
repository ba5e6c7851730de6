"""`remoterun.toml` of a repository: what is found from where, what is refused, and what is typed beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from remoterun import project
from remoterun.cli.options import parsed, with_values
from remoterun.errors import ConfigError, UsageError
from remoterun.model import Asked
from remoterun.source import as_requirements
from tests.recorder import Recorded

TEXT = r"""
machine = "box"
mounts = ["uploads/doom:data", "runs/3:/models"]
requirements = "needs.txt"
pip = ["numpy"]
cpus = 2
memory = "8G"
ports = [6006, "8888"]
alerts = ["val_loss > 4 for 10m", "no step for 1h"]
metrics = ['loss=(?P<loss>\S+)']
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", tmp_path / "top"], check=True)
    return tmp_path / "top"


def test_from_a_folder_below_it_paths_lead_to_the_same_places(top: Path, recorded: Recorded) -> None:
    (top / project.FILE).write_text(TEXT)
    (top / "needs.txt").touch()
    with pytest.raises(ConfigError, match="names no file of its repository"):
        project.find(top)  # git does not track it, as it does not track `.env`
    subprocess.run(["git", "add", "needs.txt"], cwd=top, check=True)
    here, below = project.find(top), project.find(top / "a" / "b")
    recorded.each({"at its top": json.dumps(here.typed, indent=1), "below": json.dumps(below.typed, indent=1)})


def test_the_nearest_one_holds_and_none_from_outside_of_the_repository(top: Path) -> None:
    (top.parent / project.FILE).write_text('machine = "evil"')
    assert project.find(top / "a") == project.Project()
    (top / project.FILE).write_text('machine = "far"')
    (top / "a" / project.FILE).write_text('machine = "near"')
    assert project.find(top / "a" / "b").typed == {"machine": "near"}


@pytest.mark.parametrize("name", ["../key", "link", "{outside}"])
def test_requirements_from_outside_of_the_repository_are_refused(top: Path, name: str) -> None:
    """They go to the machine, where the code of the repository may read them."""
    outside = top.parent / "key"
    outside.write_text("secret")
    (top / "link").symlink_to(outside)
    (top / project.FILE).write_text(f'requirements = "{name.format(outside=outside)}"')
    with pytest.raises(ConfigError, match="names no file of its repository"):
        project.find(top)


def test_requirements_that_are_a_pipe_are_refused(top: Path) -> None:
    os.mkfifo(top / "needs.txt")
    (top / project.FILE).write_text(TEXT)
    with pytest.raises(ConfigError, match="names no file of its repository"):
        project.find(top)


def test_without_a_repository_only_that_of_the_folder_itself(tmp_path: Path) -> None:
    (tmp_path / project.FILE).write_text('machine = "box"')
    (tmp_path / "below").mkdir()
    assert project.find(tmp_path).typed == {"machine": "box"} and not project.find(tmp_path / "below").typed


@pytest.mark.parametrize("found", ["empty folder", "gitdir"])
def test_what_only_resembles_a_repository_is_none(tmp_path: Path, found: str) -> None:
    """Whoever may write above a folder, as in /tmp, could decide there what it runs; git ignores such a thing."""
    (tmp_path / "mine").mkdir()
    (tmp_path / project.FILE).write_text('machine = "evil"')
    if found == "gitdir":
        (tmp_path / ".git").write_text("gitdir: /nonexistent\n")
    else:
        (tmp_path / ".git").mkdir()
    assert project.find(tmp_path / "mine") == project.Project()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_that_of_somebody_else_is_refused_where_git_trusts_nothing(tmp_path: Path) -> None:
    (tmp_path / project.FILE).write_text('machine = "evil"')
    os.chown(tmp_path / project.FILE, 4001, 4001)
    with pytest.raises(ConfigError, match="someone else owns"):
        project.find(tmp_path)


def test_requirements_are_the_very_file_that_was_checked(top: Path) -> None:
    """`l/../../key` is another file to the system, which follows the link first, than to who reads only the names."""
    (top / "d/d/d/x").mkdir(parents=True)
    (top / "a/l").symlink_to("../d/d/d/x")
    (top / "d/d/key").touch()
    (top.parent / "key").write_text("secret")
    (top / "a" / project.FILE).write_text('requirements = "l/../../key"')
    subprocess.run(["git", "add", "."], cwd=top, check=True)
    for folder in (top / "a", top / "a/b"):
        named = Path(folder, project.find(folder).typed["requirements"])
        assert named.resolve() == top / "d/d/key" and ".." not in str(named).partition("d/d")[2]
        assert Path(os.path.normpath(named)) == top / "d/d/key"


def test_a_mount_that_is_typed_takes_the_place_of_one_at_the_same_path() -> None:
    said = with_values(Asked("true"), parsed({**project.parse(TEXT, Path("f")).typed, "requirements": None}))
    typed = with_values(said, parsed({"mounts": ["uploads/other:data"], "pip": ["torch", "numpy"]}))
    assert [str(mount.resource) for mount in typed.mounts] == ["runs/3", "uploads/other"]
    assert with_values(said, {}) == said
    assert typed.pip == ("numpy", "torch")


def test_an_agreement_is_for_its_requirements_too(top: Path) -> None:
    (top / project.FILE).write_text('requirements = "needs.txt"')
    digests = set()
    for needs in ("six", "six\nother"):
        (top / "needs.txt").write_text(needs)
        subprocess.run(["git", "add", "needs.txt"], cwd=top, check=True)
        digests.add(project.find(top).digest)
    assert len(digests) == 2


def test_an_agreement_is_for_one_file_and_for_its_whole_text(top: Path) -> None:
    said = [(top, TEXT), (top, f"{TEXT}#"), (top / "a", TEXT)]
    digests = {project.parse(text, folder / project.FILE).digest for folder, text in said}
    assert len(digests) == 3 and {len(digest) for digest in digests} == {64}
    (top / project.FILE).write_text(said[1][1].replace("requirements", "#"))
    assert project.find(top / "a").digest == project.find(top).digest != ""


@pytest.mark.parametrize("image", ["python 3", "x\nRUN id", "--platform=x", "$BASE", "a\x1bb"])
def test_an_image_has_a_name_that_does_nothing(image: str) -> None:
    """It stands in a Dockerfile."""
    with pytest.raises(UsageError, match="is not the name of a Docker image"):
        parsed({"image": image})
    assert parsed({"image": "[::1]:5000/me/x_y:1.2-a@sha256:0f"})


@pytest.mark.parametrize("kind", ["pipe", "device", "large"])
def test_what_is_no_small_regular_file_is_refused_at_once(top: Path, kind: str) -> None:
    """A pipe has no writer, and a device no end."""
    file = top / project.FILE
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    else:
        file.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="can't be read: it (is not a regular file|has more than 1 MiB)"):
        project.find(top)


def test_what_is_refused(recorded: Recorded) -> None:
    recorded.cases(lambda text: project.parse(text, Path("remoterun.toml")), ConfigError)


@pytest.mark.parametrize(
    ("text", "why"),
    [(f"a={'[' * 5000}", "nested"), (f"{'.'.join('a' * 9999)}=1", "more than 32 parts")],
    ids=["nested", "parts"],
)
def test_a_file_that_is_made_to_take_long_is_refused(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        project.parse(text, Path("f"))
    with pytest.raises(UsageError, match=why):
        as_requirements("pyproject.toml", text.encode())
