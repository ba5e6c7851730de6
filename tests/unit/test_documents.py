"""The documents: what they point to is there, and the picture of the code fits two screens."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
ARCHITECTURE = (ROOT / "remoterun" / "ARCHITECTURE.md").read_text()
ELSEWHERE = ("io/", "damaged/", "out/", "runs/", "hosts/TOKEN/", "tests/", "docker/", "trainer/", "train.py")
"""What ARCHITECTURE names that is not a file of remoterun/."""


def documents() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True)
    return listed.stdout.split() or [str(path.relative_to(ROOT)) for path in ROOT.glob("*.md")]


@pytest.mark.parametrize("name", documents())
def test_what_a_document_links_to_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (ROOT / name).parent.joinpath(target).exists(), target


def test_architecture_fits_two_screens_with_its_glossary() -> None:
    lines = ARCHITECTURE.splitlines()
    assert len(lines) <= 190
    assert max(map(len, lines)) <= 120


def test_every_file_that_architecture_names_is_there() -> None:
    files = [str(path) for path in (ROOT / "remoterun", *(ROOT / "remoterun").rglob("*"), *ROOT.glob("*.md"))]
    named = set(re.findall(r"[A-Za-z_][\w./]*(?:\.py|\.md|/)(?![\w/])", ARCHITECTURE))
    assert len(named) > 40
    for name in named:
        if "NOUN" not in name and not name.startswith(ELSEWHERE):
            assert any(file.endswith("/" + name.rstrip("/")) for file in files), name


def test_no_hint_installs_what_is_not_ours() -> None:
    """The package has no name in an index: there, `remoterun` is somebody else's."""
    for file in (ROOT / "remoterun").rglob("*.py"):
        assert not re.search(r"pipx? (install|upgrade) ([-\w=]+ )*remoterun", file.read_text()), file


def test_the_recording_is_small_and_tells_nothing_of_the_machine_that_made_it() -> None:
    text = (ROOT / "examples" / "recording.svg").read_text()
    assert len(text.encode()) < 60_000
    lines = ElementTree.fromstring(text).findall("{http://www.w3.org/2000/svg}text")
    said = "\n".join("".join(line.itertext()) for line in lines)
    assert said.count("$ remoterun ") == 4 and "exit status 0" in said
    assert not re.search(r"/(root|home|tmp|Users|var)/", said)
    assert all(len(line) <= 80 for line in said.splitlines())


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_pictures_of_the_page_are_small(scheme: str) -> None:
    data = (ROOT / "examples" / f"runs-{scheme}.webp").read_bytes()
    assert data[:4] + data[8:12] == b"RIFFWEBP" and 30_000 < len(data) < 120_000
