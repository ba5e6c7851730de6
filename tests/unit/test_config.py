"""config.toml: what it may hold, and how it is written."""

from __future__ import annotations

import grp
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from remoterun import machines
from remoterun.agent.shared.records import from_json, to_json
from remoterun.clouds.aws.front import CREDENTIAL_FILES, CREDENTIALS, AWSFront, Settings
from remoterun.config import (
    ArchivePlace,
    Config,
    Limits,
    add_machine,
    load,
    parse,
    remove_machine,
    set_default,
    set_table,
)
from remoterun.errors import AlreadyExists, ConfigError, NotFound
from remoterun.model import MachineType, Rental
from tests.recorder import Recorded

TEXT = """# my machines
default = "k80"

[machines.k80]  # in the cellar
host = "me@box:2222"
gpus = 1
slots = 3
engine = "docker"
connect_timeout = 2.5
python = "python3.11"
home = "/data/rr"
base_image = "python:3.11-slim"
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "config.toml").write_text(TEXT)
    return load({"REMOTERUN_HOME": str(tmp_path)})


@pytest.mark.parametrize("change", [["chmod", "g+w"], ["chown", "12345"]], ids=str)
def test_a_home_that_others_may_write_says_nothing(config: Config, change: list[str]) -> None:
    """They could name another machine there, where code and secrets go."""
    if change[0] == "chown" and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    subprocess.run([*change, str(config.home)], check=True)
    with pytest.raises(ConfigError, match="others than you may write"):
        load({"REMOTERUN_HOME": str(config.home)})


def test_a_group_of_the_users_own_may_write_above_the_home(config: Config) -> None:
    """As on Debian, where each user has a group of that name, and a umask that lets it write."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    home = config.home / "home"
    home.mkdir(0o700)
    config.home.chmod(0o775)
    assert load({"REMOTERUN_HOME": str(home)}).home == home
    os.chown(config.home, -1, next(each.gr_gid for each in grp.getgrall() if each.gr_gid != os.getgid()))
    with pytest.raises(ConfigError, match="others than you may write"):
        load({"REMOTERUN_HOME": str(home)})


def test_all_of_it(config: Config) -> None:
    machine = MachineType("k80", "me@box:2222", "docker", 1, 3, "python:3.11-slim", "/data/rr", "python3.11", 2.5)
    assert config.machines == {"k80": machine} and config.default == "k80"
    assert from_json(MachineType, to_json(machine)) == machine
    assert from_json(MachineType, {**to_json(machine), "of a newer version": 1}) == machine


def test_what_is_trusted_is_a_list_of_whole_paths(config: Config) -> None:
    """What is relative would depend on where one is, as in the very repository."""
    assert parse('trusted = ["~/a/../b", "/c"]', config).trusted == (Path.home() / "b", Path("/c"))


def test_without_a_file(tmp_path: Path) -> None:
    config = load({"REMOTERUN_HOME": str(tmp_path), "REMOTERUN_SSH_CONFIG": "/x"})
    assert config == Config(tmp_path, ssh_config=Path("/x"))
    assert load({}).home == Path("~/.remoterun").expanduser()


def test_what_is_refused_by_name(tmp_path: Path, recorded: Recorded) -> None:
    recorded.cases(lambda text: parse(text, Config(tmp_path)), ConfigError)


def test_a_machine_that_is_rented(tmp_path: Path) -> None:
    text = """
[aws]
bucket = "remoterun-me"
region = "eu-central-1"

[machines.gpu]
aws = "g4dn.xlarge, g5.xlarge"
gpus = 1
region = "eu-west-1"
spot = true
disk = 200
idle = "10m"
max_hours = 2
max_cost = 1.5
image = "ami-1"

[machines.cheap]
aws = ["m7i.large"]
"""
    config = parse(text, Config(tmp_path))
    assert config.archive == ArchivePlace("remoterun-me", "eu-central-1")
    assert config.providers == {"aws": Settings(region="eu-central-1")}
    rental = Rental("aws", ("g4dn.xlarge", "g5.xlarge"), "eu-west-1", True, 200, 600.0, 2, 1.5, "ami-1")
    assert config.machines["gpu"] == MachineType("gpu", gpus=1, rental=rental)
    assert config.machines["cheap"] == MachineType("cheap", rental=Rental("aws", ("m7i.large",)))
    assert from_json(MachineType, to_json(config.machines["gpu"])) == config.machines["gpu"]


def test_where_the_archive_is_is_written_beside_what_is_there(config: Config) -> None:
    changed = set_table(config, "archive", bucket="remoterun-me", region="eu-central-1")
    assert changed.archive == ArchivePlace("remoterun-me", "eu-central-1")
    set_table(changed, "archive", bucket="another")
    again = load({"REMOTERUN_HOME": str(config.home)})
    assert again.archive == ArchivePlace("another", "eu-central-1")
    assert again.machines == config.machines and "# in the cellar" in config.file.read_text()


def test_what_stood_in_the_table_of_a_provider_goes_on_to_hold(tmp_path: Path) -> None:
    """Until the table of its own has it. What is wrong is named where it stands; a limit may not stand twice."""
    old = '[aws]\nbucket = "b"\nbucket_region = "eu-west-1"\nregion = "us-west-2"\nprofile = "work"\nmax_cost = 5\n'
    found = parse(old, Config(tmp_path))
    assert found.archive == ArchivePlace("b", "eu-west-1", None, "work") and found.limits == Limits(5)
    assert found.providers == {"aws": Settings(region="us-west-2", profile="work")}
    assert (found.table_of("max_cost"), found.table_of("max_cost_month")) == ("[aws]", "[limits]")
    new = parse(old + '[limits]\nmax_cost_month = 7\n[archive]\nbucket = "c"\n', Config(tmp_path))
    assert (new.limits, new.archive.bucket, new.table_of("max_cost")) == (Limits(5, 7), "c", "[aws]")
    (tmp_path / "config.toml").write_text(old)
    set_table(found, "archive", bucket=None, region=None)
    assert parse((tmp_path / "config.toml").read_text(), Config(tmp_path)).archive.bucket is None


def test_a_rented_machine_names_its_provider_and_types(tmp_path: Path) -> None:
    both = """
[machines.a]
provider = "aws"
types = ["g4dn.xlarge"]
spot = true
[machines.b]
aws = "g4dn.xlarge"
spot = true
"""
    found = parse(both, Config(tmp_path)).machines
    assert found["a"].rental == found["b"].rental == Rental("aws", ("g4dn.xlarge",), spot=True)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        load({"REMOTERUN_HOME": str(tmp_path)})


def test_written_with_comments_kept(config: Config) -> None:
    add_machine(config, "t4", {"host": "t4.example", "gpus": 2}, overwrite=False, make_default=False)
    text = config.file.read_text()
    assert text.startswith(TEXT.rstrip()) and "# in the cellar" in text
    again = load({"REMOTERUN_HOME": str(config.home)})
    assert again.machines["t4"] == MachineType("t4", "t4.example", gpus=2) and again.default == "k80"
    with pytest.raises(AlreadyExists):
        add_machine(again, "t4", {"host": "x"}, overwrite=False, make_default=False)
    add_machine(again, "t4", {"host": "x"}, overwrite=True, make_default=True)
    again = load({"REMOTERUN_HOME": str(config.home)})
    assert (again.machines["t4"], again.default) == (MachineType("t4", "x"), "t4")
    assert remove_machine(again, "t4"), "it was the default"
    again = load({"REMOTERUN_HOME": str(config.home)})
    assert list(again.machines) == ["k80"] and again.default == "local"
    with pytest.raises(NotFound):
        remove_machine(again, "t4")


def test_the_first_machine_of_all(tmp_path: Path) -> None:
    config = Config(tmp_path / "new")
    add_machine(config, "a.b c", {"host": "x"}, overwrite=False, make_default=True)
    set_default(config, "local")
    again = load({"REMOTERUN_HOME": str(config.home)})
    assert again.machines == {"a.b c": MachineType("a.b c", "x")} and again.default == "local"
    assert config.file.stat().st_mode & 0o777 == 0o600


def test_a_wrong_machine_is_not_written(config: Config) -> None:
    for settings in ({"hots": "x"}, {"gpus": -1}, {"engine": "x"}):
        with pytest.raises(ConfigError) as caught:
            add_machine(config, "new", settings, overwrite=False, make_default=False)
        assert caught.value.message.startswith("machines.new"), "no file holds what was typed"
    assert config.file.read_text() == TEXT


class TestMachines:
    def test_words(self, config: Config, tmp_path: Path, recorded: Recorded) -> None:
        """The host of each; `-` stands for no word."""
        (tmp_path / "ssh").write_text("Host alias *.pattern\n  HostName 10.0.0.1\n")
        settings = Config(config.home, config.default, config.machines, tmp_path / "ssh")
        recorded.cases(lambda word: machines.resolve(None if word == "-" else word, settings).host)

    def test_unknown_words(
        self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
    ) -> None:
        for name in CREDENTIALS:
            monkeypatch.delenv(name, raising=False)
        for name in CREDENTIAL_FILES:
            monkeypatch.setenv(name, str(tmp_path / "absent"))
        settings = Config(config.home, config.default, config.machines, tmp_path / "absent")
        for word in ("t4", "l4", "aws", "k81", "lokal", ""):
            with recorded.raises(NotFound, f"`{word}`"):
                machines.resolve(word, settings)

    def test_whether_there_is_a_login(self, config: Config, tmp_path: Path, recorded: Recorded) -> None:
        nowhere = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
        variables = {**nowhere, "AWS_CONFIG_FILE": str(tmp_path / "config")}
        used = replace(config, archive=ArchivePlace("made-once"))

        def there_is(text: str) -> bool:
            (tmp_path / "config").write_text(text)
            assert AWSFront().can_log_in(used, {**variables, "AWS_PROFILE": "work"})
            assert AWSFront().can_log_in(replace(config, archive=ArchivePlace(profile="work")), variables)
            return AWSFront().can_log_in(used, variables)

        recorded.cases(there_is)

    def test_where_aws_is_set_up(self, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "ssh").write_text("Host l4\n  HostName 10.0.0.1\n")
        settings = replace(config, ssh_config=tmp_path / "ssh")
        monkeypatch.setenv("AWS_PROFILE", "work")
        assert machines.resolve("K80", settings).host == "me@box:2222"  # one's own wins
        assert machines.resolve("l4", settings).host == "l4"
        assert machines.resolve("cpu", settings) == machines.LOCAL
        local = MachineType("local", engine="process")
        assert machines.resolve("CPU", replace(settings, machines={"local": local})) == local
        assert machines.resolve("T4", settings).rental == Rental("aws", ("g4dn.xlarge",))
        v100 = machines.resolve("v100", settings).rental
        assert v100 == Rental("aws", ("g5.xlarge",), instead_of="v100")
        assert machines.resolve("aws", settings) == MachineType("aws", bucket="s3://")
        named = replace(settings, archive=ArchivePlace("remoterun-me"))
        assert machines.resolve("aws", named) == MachineType("aws", bucket="s3://remoterun-me")

    def test_what_counts_as_credentials(self, config: Config, tmp_path: Path) -> None:
        nowhere = {"AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no"), "AWS_CONFIG_FILE": str(tmp_path / "no")}
        assert not AWSFront().is_set_up(config, nowhere)
        assert AWSFront().is_set_up(config, {**nowhere, "AWS_ACCESS_KEY_ID": "x"})
        assert AWSFront().is_set_up(replace(config, archive=ArchivePlace(profile="work")), nowhere)
        (tmp_path / "credentials").write_text("[default]\n")
        assert AWSFront().is_set_up(config, {**nowhere, "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")})

    def test_listing(self, config: Config) -> None:
        assert [machine.name for machine in machines.listing(config)] == ["k80", "local"]
