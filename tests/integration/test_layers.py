"""Packages on top of TensorFlow's environment are a layer on it, in the engine `process`: with a real pip, and packages
of our own in the place of TensorFlow."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from remoterun.agent.running.engines import process
from remoterun.agent.running.engines.building import BuildJob
from remoterun.agent.running.engines.process import ProcessEngine
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.spec import EnvironmentSpec
from remoterun.agent.store.home import Home
from tests.workshop import NO_PACKAGES, create_run, spec_of, tree_of, until

OLD = (("tensor", "1.0", ("bottom",)), ("bottom", "1.0", ()))
NEW = (("bottom", "2.0", ()), ("top", "1.0", ("bottom",)), ("other", "1.0", ("bottom",)))


class Layers:
    """A home whose "TensorFlow" is the package `tensor`, and what its environments hold."""

    def __init__(self, folder: Path) -> None:
        lines = []
        for number, packages in enumerate((OLD, NEW)):
            wheels = folder / f"wheels{number}"
            wheels.mkdir()
            for name, version, needs in packages:
                _make_wheel(wheels, name, version, needs)
            lines.append(f"--no-index --find-links {wheels}")
        self.home = Home.open(str(folder / "home"))
        self.engine = ProcessEngine(self.home)
        self.lines = lines[1:]
        bundled = f"{lines[0]}\ntensor\n".encode()
        context, blobs = tree_of({**NO_PACKAGES, "docker/requirements-cpu.txt": bundled})
        for data in (*blobs.values(), context.encode()):
            self.home.blobs.put(data)
        self.context = context.digest
        self.said: list[str] = []

    def environment(self, *packages: str) -> EnvironmentSpec:
        pip = (*self.lines, *packages) if packages else ()
        return EnvironmentSpec("none", "cpu", self.context, pip=pip)

    def run(self, command: str, *packages: str) -> str:
        """The log of a command that ran with these packages."""
        spec = spec_of(command, environment=self.environment(*packages))
        run = create_run(self.home, spec)
        self.engine.build(run, spec, BuildJob(run.build_log, self.said.append, lambda: False))
        os.makedirs(run.work, exist_ok=True)
        self.engine.start(run, spec, [])
        until(lambda: run.exit_code() is not None, 60)
        self.engine.remove(run)
        return Path(run.log).read_text()

    def folders(self, *packages: str) -> list[Path]:
        """The base, and the layer."""
        _, *folders = self.engine.folders(Environment(**self.environment(*packages)._asdict()))
        return [Path(folder) for folder in folders]


def _make_wheel(folder: Path, name: str, version: str, needs: tuple[str, ...]) -> None:
    about = f"{name}-{version}.dist-info"
    requires = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = '{version}'\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layers:
    monkeypatch.setattr(process, "find_uv", lambda: None)  # with uv a second environment is links to its cache
    return Layers(tmp_path)


def _packages_of(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("venv/lib/python*/site-packages/*.py")}


IMPORTS = "python -c 'import bottom, {0}; print(bottom.version, {0}.version)'"


def test_a_second_combination_installs_only_what_is_new(layers: Layers) -> None:
    assert layers.run(IMPORTS.format("top"), "top") == "1.0 1.0\n"
    base, layer = layers.folders("top")
    assert "bottom.py" in _packages_of(base) and _packages_of(layer) == {"top.py"}
    built = (base / "ready").stat().st_ino
    assert layers.run(IMPORTS.format("other"), "other") == "1.0 1.0\n"
    assert (base / "ready").stat().st_ino == built and _packages_of(layers.folders("other")[1]) == {"other.py"}
    assert layers.said[-1].endswith("once for these packages: TensorFlow, other"), "it takes no minutes"


def test_a_layer_may_have_another_version(layers: Layers) -> None:
    assert layers.run(IMPORTS.format("top"), "top", "bottom>=2") == "2.0 1.0\n"
    assert _packages_of(layers.folders("top", "bottom>=2")[1]) == {"bottom.py", "top.py"}
    assert layers.run(IMPORTS.format("other"), "other") == "1.0 1.0\n", "the base is as it was"


def test_a_layer_without_its_base_is_made_again(layers: Layers) -> None:
    layers.run("true", "top")
    base, layer = layers.folders("top")
    (base / "ready").unlink()  # as gc leaves it when it was cut
    assert not layers.engine.is_whole(str(layer))
    assert layers.run(IMPORTS.format("top"), "top") == "1.0 1.0\n"
    assert layers.engine.is_whole(str(layer)) and layers.engine.is_whole(str(base))
