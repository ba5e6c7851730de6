"""Which TensorFlow the GPUs of a machine need, and what `doctor` says of it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

from remoterun.agent.running import gpus
from remoterun.agent.running.variants import CUDA11, VARIANTS, describe, python_for, resolve
from remoterun.agent.shared.api import Examine, MachineCheck
from remoterun.agent.shared.environment import Environment
from remoterun.agent.shared.spec import BASE_IMAGE, EnvironmentSpec, ResolvedEnvironment, SpecError
from remoterun.agent.store.home import Home
from remoterun.agent.upkeep.doctor import examine
from tests.lab import gpu
from tests.lab.gpu import Gpu
from tests.recorder import Recorded
from tests.workshop import create_run, spec_of, write_files

ROOT = Path(__file__).parents[2]
K80, T4 = Gpu(), Gpu("Tesla T4", 15360, compute_cap="7.5")
M60 = Gpu("Tesla M60", 8129, compute_cap="5.2")
ASKED = EnvironmentSpec(BASE_IMAGE, "gpu", "ab" * 32)


class Machine:
    """This machine, as far as its tools are concerned: `nvidia-smi` shows the cards that a test gives it."""

    def __init__(self, folder: Path) -> None:
        self.tools = folder / "bin"
        self.tools.mkdir()
        self._folder = folder

    def has(self, *cards: Gpu) -> None:
        gpu.install(self._folder, cards, str(self._folder / "share/lab-gpus"))

    def runs(self, program: str, text: str) -> None:
        write_files(self.tools, {f"{program}*": f"#!/bin/sh\n{text}\n"})


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", f"{machine.tools}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    return machine


class TestGenerations:
    def test_a_present_driver_tells_the_capability(self, machine: Machine) -> None:
        machine.has(T4, M60)
        assert gpus.generations() == [
            gpus.Generation(Gpu.uuid(0), "Tesla T4", (7, 5), gpu.DRIVER),
            gpus.Generation(Gpu.uuid(1), "Tesla M60", (5, 2), gpu.DRIVER),
        ]

    def test_the_driver_of_a_k80_tells_the_name_only(self, machine: Machine) -> None:
        machine.has(K80, T4)
        with pytest.raises(gpus.GpuError):
            gpus._query("--query-gpu=compute_cap")
        assert [(card.name, card.capability, card.driver) for card in gpus.generations()] == [
            ("Tesla K80", (3, 7), gpu.OLD_DRIVER),
            ("Tesla T4", None, gpu.OLD_DRIVER),
        ]

    def test_names(self, machine: Machine, recorded: Recorded) -> None:
        def capability(name: str) -> gpus.Capability | None:
            machine.has(Gpu(name, compute_cap="3.0"))  # an old driver
            (card,) = gpus.generations()
            return card.capability

        recorded.cases(capability)


class TestResolve:
    def test_variants(self, recorded: Recorded) -> None:
        def variant(title: str) -> str:
            asked, capabilities = json.loads(title)
            return resolve(ASKED._replace(variant=asked), [each and tuple(each) for each in capabilities]).variant

        recorded.cases(variant)

    def test_the_base_image_has_the_python_unless_the_machine_has_its_own(self) -> None:
        assert resolve(ASKED, [(3, 7)]) == ResolvedEnvironment(CUDA11, "python:3.11-slim")
        assert resolve(ASKED, [(7, 5)]) == ResolvedEnvironment("gpu", BASE_IMAGE)
        assert resolve(ASKED._replace(base="me/base:1"), [(3, 7)]) == ResolvedEnvironment(CUDA11, "me/base:1")

    def test_it_lies_beside_the_spec_which_stays_as_asked(self, tmp_path: Path) -> None:
        home = Home.open(str(tmp_path))
        asked = spec_of(environment=ASKED)
        run = create_run(home, asked)
        assert run.resolved_spec() == asked
        found = run.resolve_environment(ResolvedEnvironment(CUDA11, "python:3.11-slim"))
        assert found == run.resolved_spec() and run.spec() == asked
        assert found == asked._replace(environment=ASKED._replace(variant=CUDA11, base="python:3.11-slim"))
        Path(run.environment_file).write_text('{"variant": 5, "base": ""}')
        with pytest.raises(SpecError, match="can't be read"):
            run.resolved_spec()

    def test_each_variant_has_its_requirements_and_an_image_of_its_own(self) -> None:
        files = {path.name for path in (ROOT / "docker").glob("requirements-*.txt")}
        environments = [Environment(*ASKED._replace(variant=name)) for name in VARIANTS]
        assert {os.path.basename(each.requirements_file) for each in environments} == files
        assert len({each.bundled_image for each in environments}) == len(VARIANTS)

    @pytest.mark.parametrize("name", VARIANTS)
    def test_titles_are_of_the_version_that_is_installed(self, name: str) -> None:
        text = (ROOT / "docker" / f"requirements-{name}.txt").read_text()
        (title,) = re.findall(r"^TensorFlow (\S+)", VARIANTS[name].title)
        assert set(re.findall(r"^tensorflow\S*?==(\d+\.\d+)", text, re.MULTILINE)) == {title}


class TestPython:
    def test_the_agents_own_if_it_fits(self) -> None:
        assert sys.version_info >= (3, 11)
        if sys.version_info < (3, 12):
            assert python_for(CUDA11) == sys.executable
        if sys.version_info < (3, 14):
            assert python_for("gpu") == sys.executable

    def test_else_the_newest_that_fits_on_the_path_or_where_uv_puts_it(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(machine.tools))
        monkeypatch.setattr(sys, "version_info", (3, 13, 1))
        assert python_for("gpu") == sys.executable
        assert python_for(CUDA11) is None
        machine.runs("python3.12", "exit")
        machine.runs("python3.9", "exit")
        assert python_for(CUDA11) is None
        machine.runs("python3.10", "exit 1")
        assert python_for(CUDA11) is None, "a stand-in of pyenv's, or Debian's without venv"
        machine.runs("python3.10", "exit")
        assert python_for(CUDA11) == str(machine.tools / "python3.10")
        uv = write_files(Path(os.environ["HOME"]), {".local/bin/python3.11*": "#!/bin/sh\n"}) / ".local/bin/python3.11"
        assert python_for(CUDA11) == str(uv)


class TestDoctor:
    def checks(self, tmp_path: Path, wanted: int = 1, engine: str = "process") -> dict[str, MachineCheck]:
        home = Home.open(str(tmp_path / "home"))
        return {check.name: check for check in examine(home, Examine(engine, wanted, BASE_IMAGE))}

    def test_a_k80(self, tmp_path: Path, machine: Machine, recorded: Recorded) -> None:
        machine.has(K80, K80)
        recorded.same(self.checks(tmp_path)["gpu software"])

    def test_a_driver_that_is_too_old(self, tmp_path: Path, machine: Machine, recorded: Recorded) -> None:
        for driver in ("450.80.02", "450.51.06", "418.87", "[N/A]"):
            machine.runs(
                "nvidia-smi",
                "case $1 in *compute_cap*) exit 2;; *compute-apps*) ;; *driver*)"
                f" echo 'GPU-a, Tesla K80, {driver}';; *) echo '0, GPU-a, Tesla K80, 11441, 0, 0';; esac",
            )
            recorded.same(self.checks(tmp_path)["gpu software"], driver)

    def test_maxwell_works_with_present_drivers(self, tmp_path: Path, machine: Machine, recorded: Recorded) -> None:
        machine.has(M60, T4)
        recorded.same(self.checks(tmp_path)["gpu software"])

    def test_nothing_is_said_where_the_present_tensorflow_works_or_no_gpu_is_used(
        self, tmp_path: Path, machine: Machine
    ) -> None:
        machine.has(T4)
        assert "gpu software" not in self.checks(tmp_path)
        machine.has(K80)
        assert "gpu software" not in self.checks(tmp_path, wanted=0)

    def test_without_a_python_that_fits(
        self, tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
    ) -> None:
        machine.has(K80)
        monkeypatch.setattr(sys, "version_info", (3, 13, 1))
        monkeypatch.setenv("PATH", str(machine.tools))
        for tool in ("sh", "awk"):
            (machine.tools / tool).symlink_to(f"/usr/bin/{tool}")
        recorded.same(self.checks(tmp_path)["gpu python"])

    def test_the_image_that_will_be_pulled(self, tmp_path: Path, machine: Machine) -> None:
        machine.has(K80)
        machine.runs("docker", 'test "$1" = version && echo 27')
        checks = self.checks(tmp_path, engine="docker")
        assert checks["base image"].detail == "python:3.11-slim is not here; the first run pulls it"
        assert "gpu python" not in checks, "the image has one"


def test_words_for_several_cards(machine: Machine) -> None:
    machine.has(K80, K80, T4)
    assert describe(gpus.generations()) == "2 x Tesla K80 (compute capability 3.7), Tesla T4"
