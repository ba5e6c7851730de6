"""Which framework a run gets: what its code imports, by reading it, and what its project lists."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from remoterun.client.runs.packages import Choice, choose
from remoterun.errors import UsageError
from remoterun.model import RunRequest
from remoterun.parsing import parse_package
from remoterun.source import as_requirements, imported, listed_in, snapshot
from tests.recorder import Recorded
from tests.workshop import Files, write_files

LOCK = """
version = 1
[[package]]
name = "mine"
version = "0.1"
source = { virtual = "." }
dependencies = [
    { name = "torch" },
    { name = "colorama", marker = "sys_platform == 'win32'" },
]
[package.dev-dependencies]
dev = [{ name = "pytest" }]
[[package]]
name = "torch"
version = "2.5.0"
source = { registry = "https://download.pytorch.org/whl/cu124" }
dependencies = [
    { name = "numpy", extra = ["fast"] },
    { name = "triton", marker = "sys_platform == 'linux'" },
]
[[package]]
name = "triton"
version = "3.1"
source = { registry = "https://index.example.org/simple" }
dependencies = [{ name = "colorama", marker = "python_version < '3.8'" }]
[[package]]
name = "numpy"
version = "2.1.0"
source = { registry = "https://index.example.org/simple" }
[package.optional-dependencies]
fast = [{ name = "mkl" }]
[[package]]
name = "mkl"
version = "1.0"
source = { git = "https://github.com/me/mkl?rev=main#0123456789abcdef" }
[[package]]
name = "colorama"
version = "0.4.6"
source = { registry = "https://index.example.org/simple" }
[[package]]
name = "pytest"
version = "8.0"
source = { registry = "https://index.example.org/simple" }
"""


def choice(folder: Path, command: str, files: Files | None = None, **asked: Any) -> Choice:
    write_files(folder, files or {})
    return choose(RunRequest(command, **asked), snapshot(folder, no_git=True))


def test_imports_are_followed_through_the_files_that_are_sent(tmp_path: Path, recorded: Recorded) -> None:
    files: Files = {
        "train.py": "import os\nimport helper\nif os.name == 'x':\n    import models_of_others.deep\n",
        "helper.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import tensorflow\nimport lib.one\n",
        "lib/__init__.py": "",
        "lib/one.py": "from . import two\nfrom .two import x\n",
        "lib/two.py": "def f():\n    from train import y\n",
        "src/main.py": "import package\n",
        "src/package/__init__.py": "def lazily():\n    import tensorflow as tf\n",
        "src/package/tool.py": "from package import lazily\nfrom keras import layers\n",
        "go*": "#!/usr/bin/env python3\nimport train\n",
        "run.sh": "# don't stop\nset -e\ncd src\npython -m package.tool \\\n  --fast\ncd .. && python train.py\n",
        "note.ipynb": '{"cells": [{"cell_type": "code", "source": ["%matplotlib inline\\n", "import seaborn"]}]}',
    }
    sent = snapshot(write_files(tmp_path, files), no_git=True)
    recorded.cases(lambda command: " ".join(sorted(imported(command, sent).modules)))


def test_what_is_not_known(tmp_path: Path, recorded: Recorded) -> None:
    """Whether all that a command imports is known, and whether it installs packages itself."""
    sent = snapshot(write_files(tmp_path, {"ok.py": "import sys\n", "broken.py": "print 'of Python 2'\n"}), no_git=True)

    def known(command: str) -> str:
        found = imported(command, sent)
        return f"whole {found.whole}, installs {found.installs}"

    recorded.cases(known)


def test_the_framework(tmp_path: Path, recorded: Recorded) -> None:
    def framework(title: str) -> str | None:
        command, asked = json.loads(title)
        return choice(tmp_path, command, **asked).framework

    recorded.cases(framework)


def test_what_does_not_go_together(tmp_path: Path, recorded: Recorded) -> None:
    for asked in ({"framework": "torch"}, {"framework": "none", "pip": ("x",)}, {"framework": "python", "image": "a"}):
        with recorded.raises(UsageError, str(asked)):
            choice(tmp_path, "true", **asked)


class TestLacking:
    CODE = "import os, yaml, torch\ntry:\n    import orjson\nexcept ImportError:\n    orjson = None\n"

    def test_with_what_the_project_lists(self, tmp_path: Path) -> None:
        files: Files = {"a.py": self.CODE, "requirements.txt": "# these\ntorch>=2\n-i https://x\npyyaml\n"}
        found = choice(tmp_path, "python a.py", files)
        assert found.lacking == ("torch", "yaml") and found.packages == ["torch", "pyyaml"]
        assert found.offer is not None and (found.offer.path, found.offer.count) == ("requirements.txt", 2)

    def test_nothing_once_packages_are_named_or_the_command_installs_its_own(self, tmp_path: Path) -> None:
        files: Files = {"a.py": self.CODE}
        assert choice(tmp_path, "python a.py", files).offer is None
        assert not choice(tmp_path, "python a.py", pip=("torch",)).lacking
        assert not choice(tmp_path, "python -c 'from remoterun_log import log'").lacking, "each run has it"
        assert not choice(tmp_path, "pip install torch pyyaml && python a.py").lacking
        assert not choice(tmp_path, "python a.py", framework="none").lacking
        assert choice(tmp_path, "python -c 'import numpy'").lacking == ("numpy",)
        assert not choice(tmp_path, "python -c 'import numpy'", framework="tensorflow").lacking

    def test_the_most_exact_list_of_the_nearest_folder(self, tmp_path: Path) -> None:
        files: Files = {"pyproject.toml": "[project]\ndependencies = ['a', 'b>1']\n"}
        write_files(tmp_path, files)
        found = listed_in(snapshot(tmp_path, no_git=True))
        assert found is not None and (found.path, found.text) == ("pyproject.toml", "a\nb>1\n")
        write_files(tmp_path, {"requirements.txt": "a\n", "uv.lock": LOCK})
        found = listed_in(snapshot(tmp_path, no_git=True))
        assert found is not None and found.path == "uv.lock"


class TestLists:
    def test_a_lock_file_of_uv(self, recorded: Recorded) -> None:
        recorded.same(as_requirements("uv.lock", LOCK.encode()))

    def test_a_lock_file_that_would_take_long_is_refused(self) -> None:
        """Each of 1,000 markers goes down a chain of packages, and each package of 3,000 is searched by its name."""
        usual = 'source = {registry = "https://index.example.org/simple"}\nversion = "1"\n'
        fan = ",".join(f'{{name="p0", marker="m{number}"}}' for number in range(1_000))
        lines = [f'[[package]]\nname = "me"\nsource = {{virtual = "."}}\ndependencies = [{fan}]']
        for number in range(3_000):
            lines.append(
                f'[[package]]\nname = "p{number}"\n{usual}dependencies = [{{name = "p{(number + 1) % 3_000}"}}]'
            )
        began = time.process_time()
        with pytest.raises(UsageError, match="too many conditions"):
            as_requirements("uv.lock", "\n".join(lines).encode())
        assert time.process_time() - began < 10

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.ipynb", json.dumps({"cells": [{"cell_type": "code", "source": ["\n" * 200_000]}]})),
            ("a.sh", "#!/bin/sh\n" + "\n" * 200_000),
            ("a.py", f"if a{'.b' * 900}: pass"),
            ("requirements.txt", f"a{' ' * 200_000}!"),
        ],
    )
    def test_files_that_took_minutes_or_were_a_fault(self, tmp_path: Path, name: str, text: str) -> None:
        """Read in a time that grows with their size; nothing is recursed into without an end."""
        began = time.process_time()
        choice(tmp_path, f"python a.py && jupyter execute {name}; ./{name}", {"a.py": "import numpy", name: text})
        assert time.process_time() - began < 10

    def test_of_many_large_files_some_are_read(self, tmp_path: Path) -> None:
        """A minute's work for the parser, if they were of code."""
        write_files(tmp_path, {f"m{at}.py": f"import m{at + 1}, n{at}\n{'#' * 900_000}" for at in range(20)})
        found = imported("python m0.py", snapshot(tmp_path, no_git=True))
        assert not found.whole and found.modules == {"n0", "n1", "n2"}

    def test_a_package_of_blanks(self) -> None:
        began = time.process_time()
        with pytest.raises(UsageError, match="pip can't read"):
            parse_package(f"a{' ' * 100_000}!")
        assert time.process_time() - began < 10

    def test_what_can_not_be_read(self, recorded: Recorded) -> None:
        projects = ("[tool.x]\n", "[project]\ndynamic = ['dependencies']\n", "[project\n")
        locks = ("version = 1\n", "[[package]]\nname = 1\n")
        lists = {"pyproject.toml": projects, "uv.lock": locks, "requirements.txt": ("\xff",)}
        for name, text in ((name, text) for name, texts in lists.items() for text in texts):
            with recorded.raises(UsageError, f"{name}: {text!r}"):
                as_requirements(name, text.encode("latin-1"))


@pytest.mark.parametrize("text", ["x = f'" + "{a}" * 300_000 + "'", "a;" * 400_000], ids=["braces", "lines"])
def test_code_that_is_made_to_take_long_is_not_read(tmp_path: Path, text: str) -> None:
    """The first took Python's own parser half a minute."""
    (tmp_path / "a.py").write_text(text)
    began = time.process_time()
    assert not imported("python a.py", snapshot(tmp_path, no_git=True)).whole
    assert time.process_time() - began < 1
