"""How much memory the upkeep of a large home takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from remoterun.agent.store.home import Home
from tests.workshop import sha256

MEMORY = """
import sys
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.%s

def most():
    "The most memory that this process has had, in KB; what `getrusage` says is inherited from the one that started it."
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

home = Home.open(sys.argv[1])
before = most()
%s
print(most() - before)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Its two uploads have lists of files, and no files."""
    home = Home.open(str(tmp_path_factory.mktemp("memory") / "home"))
    lines = [b"remoterun-tree 1\n"]
    for number in range(200_000):
        lines.append(b'["f","%06d",1,"%s",0]\n' % (number, sha256(b"%d" % number).encode()))
    text = b"".join(lines)
    for name in ("one", "two"):
        folder = Path(home.uploads.folder, name)
        folder.mkdir()
        (folder / "1.tree").write_bytes(text)
        (folder / "versions.json").write_text(
            json.dumps([{"version": 1, "digest": sha256(text), "size": 200000, "files": 200000, "created": 1.0}])
        )
        (folder / "1").mkdir()
    return home


@pytest.mark.parametrize(
    "body",
    [
        ("usage import UsageReport", "UsageReport(home, lambda **_: None).run()"),
        ("gc import Collection, Collect", "Collection(home, Collect(1, True, 1.0, True), lambda **_: None).run()"),
        ("check import Check", "Check(home, True, lambda **_: None)._read_lists()"),
    ],
    ids=lambda body: body[0].split()[0],
)
def test_of_two_lists_of_files(home: Home, body: tuple[str, str]) -> None:
    """By the lists of files alone: 200,000 digests twice, in KB: a set of hex strings would take 40 MB more."""
    done = subprocess.run([sys.executable, "-c", MEMORY % body, home.path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50_000
