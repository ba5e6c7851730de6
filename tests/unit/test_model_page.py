"""Which files make a model for the page, where one is, and how a folder of them is brought up to date."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from remoterun.errors import NotFound, TransferError, UsageError
from remoterun.model_page import find, local_model, refresh
from remoterun.model_page.libraries import FILES, PAGE, page_file
from remoterun.model_page.models import open_file
from tests.models import write_model
from tests.recorder import Recorded

MODEL = ("manifest.json", "vocab.json")


def below(*folders: str) -> list[str]:
    return [f"{folder}/{name}".lstrip("/") for folder in folders for name in MODEL]


def test_the_one_model_is_found(recorded: Recorded) -> None:
    """What is inside a model belongs to it; `web` is of another kind."""
    recorded.cases(lambda paths: f"`{find(paths.split(), 'runs/1', 'remoterun ls runs/1')}`")


def test_several_models_are_offered() -> None:
    with pytest.raises(UsageError, match="`runs/1` holds 2 models") as caught:
        find(below("one", "two"), "runs/1", "")
    assert caught.value.hint == "remoterun open runs/1/one\nremoterun open runs/1/two"


def test_where_no_model_is(recorded: Recorded) -> None:
    recorded.cases(lambda paths: find(paths.split(), "runs/1", "remoterun ls runs/1"), NotFound)


def test_a_model_of_this_machine_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "song" / "models", "w", "b", settings={"step": 300})
    monkeypatch.chdir(tmp_path / "song")
    for typed in (".", "models", str(tmp_path / "song")):
        model = local_model(Path(typed))
        assert model.folder.samefile("models") and model.folder.is_absolute()
        assert (model.name, model.files, model.step, model.live) == ("models", 5, 300, False)
    (Path("models") / "settings.json").write_text("[broken")
    assert local_model(Path("models")).step is None


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(NotFound, match="holds no model") as caught:
        local_model(tmp_path)
    assert caught.value.hint == f"ls {tmp_path}"
    with pytest.raises(UsageError, match="is a file"):
        local_model(tmp_path / "notes")
    with pytest.raises(NotFound, match="there is no folder `15`"):
        local_model(Path("15"))


@pytest.mark.parametrize(
    "manifest",
    ['{"name": "an app"}', "{}", "[]", "{", '{"w": {"filename": "../w", "shape": []}}', '{"w": {"filename": ".w"}}'],
)
def test_another_manifest_is_no_model(tmp_path: Path, manifest: str) -> None:
    write_model(tmp_path)
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UsageError, match="lists no weights: this is not a model for ml5.js"):
        local_model(tmp_path)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "settings.json", "w"])
def test_what_is_not_a_regular_file_is_not_read(tmp_path: Path, name: str, kind: str) -> None:
    """A link may lead to what only its owner can read; a pipe would be waited for."""
    folder = write_model(tmp_path / "models", "w", settings={"step": 3})
    (folder / name).rename(tmp_path / "aside")
    if kind == "link":
        (folder / name).symlink_to(tmp_path / "aside")
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).mkdir()
    with pytest.raises(OSError, match=f"{name} is "):
        open_file(folder, name)
    if name == "manifest.json":
        with pytest.raises(UsageError, match="can't be read: manifest.json is "):
            local_model(folder)
    else:
        assert local_model(folder).files == 3 and (local_model(folder).step == 3) is (name == "w")


class Training:
    """A folder somewhere else, in which a training replaces its model between the copies."""

    def __init__(self, there: Path, here: Path, *versions: str) -> None:
        self.there, self.here, self.versions = there, here, list(versions)
        self.copies: list[list[str]] = []
        here.mkdir()
        self.next()

    def next(self) -> None:
        for path in self.there.glob("*-w"):
            path.unlink()
        write_model(self.there, f"{self.versions.pop(0)}-w", settings={"step": 7})

    def copy(self, names: frozenset[str]) -> None:
        if not names & set(MODEL) and self.versions:
            self.next()  # after the manifest was copied
        found = sorted(name for name in names if (self.there / name).exists())
        for name in found:
            (self.here / name).write_bytes((self.there / name).read_bytes())
        self.copies.append(found)


def test_a_model_is_copied_until_it_is_whole_and_the_old_one_goes(tmp_path: Path) -> None:
    training = Training(tmp_path / "there", tmp_path / "here", "1", "2", "3")
    (tmp_path / "here" / "0-w").touch()
    model = refresh("runs/1/models", tmp_path / "here", training.copy, live=True)
    small = ["manifest.json", "settings.json", "vocab.json"]
    assert training.copies == [small, [], small, [], small, ["3-w"]]
    assert (model.files, model.step, model.live) == (4, 7, True)
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["3-w", *small]


def test_a_model_that_is_never_whole(tmp_path: Path) -> None:
    training = Training(tmp_path / "there", tmp_path / "here", *"123456789")
    with pytest.raises(TransferError, match="the model of runs/1 is not whole: 4-w is missing"):
        refresh("runs/1", tmp_path / "here", training.copy)


def test_the_page_names_its_own_files_only() -> None:
    """Nothing comes from elsewhere, and all that it names is kept for it."""
    named = set()
    for name in PAGE:
        text = page_file(name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), name
        named |= set(re.findall(r"""(?:src|href)="([^":]+)"|url\("([^":]+)"\)""", text))
    found = {first or second for first, second in named}
    assert found <= set(PAGE) | {f"node_modules/{name}" for name in FILES}
    assert {"model.js", "node_modules/ml5/dist/ml5.min.js", "node_modules/p5/lib/p5.min.js"} <= found


def test_the_packages_are_pinned_by_their_hashes() -> None:
    lock = json.loads(page_file("package-lock.json").read_text())
    wanted = json.loads(page_file("package.json").read_text())["dependencies"]
    packages = {name.removeprefix("node_modules/"): entry for name, entry in lock["packages"].items() if name}
    assert {name: entry["version"] for name, entry in packages.items()} == wanted
    assert all(re.fullmatch(r"[\d.]+", version) for version in wanted.values())
    assert wanted["ml5"] == "0.12.2", "the last one with charRNN"
    for entry in packages.values():
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/]{86}==", entry["integrity"]) and "resolved" not in entry
