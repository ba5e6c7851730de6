"""`remoterun.toml` of a repository: what is found from where, what is refused, and what is typed beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun import project
from remoterun.cli.options import parsed, with_values
from remoterun.errors import ConfigError
from remoterun.model import Asked

TEXT = """
machine = "box"
mounts = ["uploads/doom:data", "runs/3:/models"]
requirements = "needs.txt"
pip = ["numpy"]
ports = [6006, "8888:9999"]
"""


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top" / ".git").mkdir(parents=True)
    (tmp_path / "top" / "a" / "b").mkdir(parents=True)
    return tmp_path / "top"


def test_from_a_folder_below_it_paths_lead_to_the_same_places(top: Path) -> None:
    (top / project.FILE).write_text(TEXT)
    here, below = project.find(top), project.find(top / "a" / "b")
    assert here.typed == {
        "machine": "box",
        "mounts": ["uploads/doom:data", "runs/3:/models"],
        "requirements": "needs.txt",
        "pip": ["numpy"],
        "ports": ["6006", "8888:9999"],
    }
    moved = {"mounts": ["uploads/doom:../../data", "runs/3:/models"], "requirements": "../../needs.txt"}
    assert below.typed == {**here.typed, **moved}


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
    with pytest.raises(ConfigError, match="leads out of its repository"):
        project.find(top)


def test_without_a_repository_only_that_of_the_folder_itself(tmp_path: Path) -> None:
    (tmp_path / project.FILE).write_text('machine = "box"')
    (tmp_path / "below").mkdir()
    assert project.find(tmp_path).typed == {"machine": "box"} and not project.find(tmp_path / "below").typed


def test_a_mount_that_is_typed_takes_the_place_of_one_at_the_same_path() -> None:
    said = with_values(Asked("true"), parsed({**project.parse(TEXT, Path("f")).typed, "requirements": None}))
    typed = with_values(said, parsed({"mounts": ["uploads/other:data"], "pip": ["torch", "numpy"]}))
    assert [str(mount.resource) for mount in typed.mounts] == ["runs/3", "uploads/other"]
    assert with_values(said, {}) == said
    assert typed.pip == ("numpy", "torch")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("mashine = 'box'", "unknown key `mashine`", "did you mean `machine`?"),
        ("machine = 3", "`machine` has to be a text in quotes", 'machine = "…"'),
        ("env = ['A=1']", "unknown key `env`", "known are"),
        ("split = 'yes'", "`split` has to be true or false", "split = true"),
        ("pip = 'numpy'", "`pip` has to be a list", 'pip = ["…", "…"]'),
        ("ports = [true]", "`ports` has to be a list", "ports = [6006]"),
        ("mounts = ['doom']", "`doom` is not", ""),
        ("notify = ['https://hooks.example.org/x']", "`notify` names secrets", "remoterun secret set"),
        ("machine =", "is not TOML", "mend it"),
    ],
)
def test_what_is_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        project.parse(text, Path("remoterun.toml"))
    assert message in caught.value.message and "remoterun.toml" in caught.value.message
    assert hint in (caught.value.hint or "")
