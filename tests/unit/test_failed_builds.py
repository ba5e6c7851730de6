"""Of a build that failed the user sees the line that says why, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from remoterun.agent.running.engines.building import BuildJob, explain, find_uv
from remoterun.agent.store.errors import HomeError
from tests.recorder import Recorded
from tests.workshop import write_files

NOT_FOUND = """\
$ venv/bin/python -m pip install -r requirements.txt
Looking in links: /opt/wheels
ERROR: Could not find a version that satisfies the requirement cowsy (from versions: none)
ERROR: No matching distribution found for cowsy
"""


def buildkit(text: str) -> str:
    """As BuildKit prints what a step says, and what it adds."""
    lines = "".join(f"#7 {number}.123 {line}\n" for number, line in enumerate(text.splitlines()))
    return f"$ docker build .\n#7 [3/3] RUN pip install\n{lines}#7 ERROR: process did not complete: exit code: 1\n"


LOGS = {
    "pip": NOT_FOUND,
    "pip in BuildKit": buildkit(NOT_FOUND),
    "pip without that version": NOT_FOUND.replace("cowsy", "cowsay==99").replace(": none", ": 1.0, 5.0, 6.1"),
    "pip with a conflict": "ERROR: Cannot install a<5 and a==6 because these package versions have conflicting "
    "dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io\n",
    "uv": "error: No solution found when resolving dependencies\n  cause: Because cowsy was not found in the package "
    "registry and you require cowsy, we can conclude that your requirements are unsatisfiable.\n",
    "uv at a terminal": "  × No solution found when resolving dependencies:\n  ╰─▶ Because cowsy was not found\n",
    "apt": "Reading package lists...\nE: Unable to locate package nodjs\n",
    "no network": "WARNING: Retrying: NewConnectionError: Temporary failure in name resolution\n" + NOT_FOUND[60:],
    "gcc": "      error: command '/usr/bin/gcc' failed: No such file\n  ERROR: Failed building wheel for x\n",
    "another program": "first words\nlast words\n",
    "nothing": "",
}


def test_the_line_that_says_why(tmp_path: Path, recorded: Recorded) -> None:
    file = tmp_path / "build.log"
    for name, log in LOGS.items():
        file.write_text("$ pip earlier\nERROR: of an earlier program\n$ pip\n" + log)
        found = explain(BuildJob(str(file), lambda _: None, lambda: False))
        recorded.same(f"{found.message}\nhint: {found.hint}", name)


def test_a_disk_without_room(tmp_path: Path) -> None:
    file = tmp_path / "build.log"
    file.write_text("$ pip\nERROR: Could not install packages: [Errno 28] No space left on device: '/tmp/x'\nlast\n")
    with pytest.raises(HomeError, match="No space left on device: '/tmp/x'") as caught:
        explain(BuildJob(str(file), lambda _: None, lambda: False))
    assert caught.value.code == "disk_full"


class TestUv:
    @pytest.fixture
    def variables(self, tmp_path: Path) -> dict[str, str]:
        write_files(tmp_path, {".local/bin/uv*": "#!/bin/sh\n"})
        return {"HOME": str(tmp_path), "PATH": "/nowhere"}

    @pytest.fixture(autouse=True)
    def no_settings_of_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from remoterun.agent.running.engines import building as packages

        monkeypatch.setattr(packages, "_FILES", ("~/.config/pip/pip.conf",))

    def test_found_where_its_installer_puts_it(self, variables: dict[str, str]) -> None:
        assert find_uv(variables) == f"{variables['HOME']}/.local/bin/uv"
        assert find_uv({**variables, "HOME": "/nowhere"}) is None

    def test_pip_where_pip_has_settings_that_uv_does_not_read(self, variables: dict[str, str]) -> None:
        assert find_uv({**variables, "PIP_NO_INPUT": "1"}) is not None
        assert find_uv({**variables, "PIP_INDEX_URL": "https://mirror"}) is None
        assert (
            find_uv({**variables, "PIP_INDEX_URL": "https://mirror", "UV_DEFAULT_INDEX": "https://mirror"}) is not None
        )
        write_files(Path(variables["HOME"]), {".config/pip/pip.conf": "[global]\n"})
        assert find_uv(variables) is None
