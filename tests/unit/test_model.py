"""What users type."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.spec import KEY
from remoterun.agent.shared.states import ENDINGS, Reason, RunState
from remoterun.errors import UsageError
from remoterun.model import Line, MachineType, Mount, Resource, Run, RunFilter, new_key
from remoterun.parsing import command_text, parse_duration, parse_gpus, parse_package, parse_port, parse_variable
from tests.recorder import Recorded


class TestResources:
    def test_resources(self, recorded: Recorded) -> None:
        def parsed(text: str) -> str:
            resource = Resource.parse(text)
            assert Resource.parse(str(resource)) == resource and Resource.is_one(text)
            return repr(resource)

        recorded.cases(parsed)

    def test_what_is_none(self, recorded: Recorded) -> None:
        recorded.cases(Resource.parse, UsageError)

    def test_a_whole_kind(self) -> None:
        assert Resource.parse("runs", whole_kind=True) == Resource("runs") == Resource.parse("runs/", whole_kind=True)

    @given(st.text(max_size=30))
    def test_any_text(self, text: str) -> None:
        for prefix in ("", "uploads/", "runs/", "uploads/doom/", "runs/1/"):
            try:
                resource = Resource.parse(prefix + text)
            except UsageError:
                continue
            assert not resource.sub.startswith("/") and ".." not in resource.sub.split("/")


class TestMounts:
    def test_places(self, recorded: Recorded) -> None:
        """Of a mount, and of one below a working folder."""

        def place(title: str) -> str:
            text, _, workdir = title.partition(" ")
            return Mount.parse(text).place(workdir)

        recorded.cases(place)

    def test_mounts_that_are_refused(self, recorded: Recorded) -> None:
        recorded.cases(lambda text: Mount.parse(text).place(""), UsageError)

    @given(st.text(max_size=20), st.sampled_from(["", "a", "a/b"]))
    def test_relative_ones_stay_in_the_work_tree(self, path: str, workdir: str) -> None:
        try:
            place = Mount.parse("uploads/doom:" + path).place(workdir)
        except UsageError:
            return
        assert place.startswith("/") == path.startswith("/") and ".." not in place.split("/")


class TestPorts:
    def test_ports(self, recorded: Recorded) -> None:
        recorded.cases(parse_port)

    def test_ports_that_are_refused(self, recorded: Recorded) -> None:
        recorded.cases(parse_port, UsageError)


class TestWords:
    def test_durations(self, recorded: Recorded) -> None:
        recorded.cases(parse_duration)

    def test_no_durations(self, recorded: Recorded) -> None:
        recorded.cases(parse_duration, UsageError)

    @pytest.mark.parametrize("text", ["0", "0s", "0d"])
    def test_no_time_where_that_is_meant(self, text: str) -> None:
        assert parse_duration(text, or_none=True) == 0
        with pytest.raises(UsageError):
            parse_duration("x", or_none=True)

    def test_variables(self) -> None:
        assert parse_variable("A=b=c") == ("A", "b=c") and parse_variable("_x1=") == ("_x1", "")
        for text in ("", "=x", "1A=x", "A-B=x", "A B=x", "A=\0", "é=1", "A\n=1"):
            with pytest.raises(UsageError):
                parse_variable(text)

    def test_a_variable_as_it_is_here(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that a secret stands in no list of processes."""
        monkeypatch.setenv("TOKEN", "a=b c")
        assert parse_variable("TOKEN") == ("TOKEN", "a=b c")
        monkeypatch.delenv("TOKEN")
        with pytest.raises(UsageError, match="not set here"):
            parse_variable("TOKEN")

    @given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=2, max_size=4))
    def test_words_keep_their_borders(self, words: list[str]) -> None:
        script = "for word; do printf '%s\\0' \"$word\"; done"
        text = command_text(["set", "--", *words]) + "; " + script
        out = subprocess.run(["sh", "-c", text], capture_output=True, check=True).stdout
        assert out.decode().split("\0")[:-1] == words

    def test_one_word_is_a_command_line(self) -> None:
        assert command_text(["echo a | cat"]) == "echo a | cat"

    def test_keys_sort_by_time_and_are_paths(self) -> None:
        keys = [new_key(now / 1000) for now in range(1_700_000_000_000, 1_700_000_000_050)]
        assert keys == sorted(keys) and len(set(keys)) == 50 and all(KEY.match(key) for key in keys)


def test_exit_status(recorded: Recorded) -> None:
    """Of a code and a reason."""

    def status(title: str) -> int:
        code, reason = (None if word == "None" else word for word in title.split())
        state = ENDINGS[Reason(reason)].state if reason else RunState.FAILED
        run = Run(1, "k", state, MachineType("m"), "c", 1.0, reason=reason and Reason(reason), code=code and int(code))
        return run.exit_status

    recorded.cases(status)


class TestRunFilter:
    RUN = Run(
        7, "key", RunState.RUNNING, MachineType("lab", host="me@box"), "python Train.py", 100.0, labels=("night",)
    )

    def test_what_fits(self) -> None:
        for wanted in (
            RunFilter(),
            RunFilter(states=frozenset({RunState.RUNNING})),
            RunFilter(labels=("day", "night")),
            RunFilter(machine="lab"),
            RunFilter(since=100.0),
            RunFilter(words=("train", "PY")),
        ):
            assert wanted.fits(self.RUN), wanted

    def test_what_does_not(self) -> None:
        for wanted in (
            RunFilter(states=frozenset({RunState.FAILED})),
            RunFilter(labels=("day",)),
            RunFilter(machine="local"),
            RunFilter(since=100.5),
            RunFilter(words=("train", "eval")),
        ):
            assert not wanted.fits(self.RUN), wanted

    def test_one_that_goes_on_may_have_come_to_another_state(self) -> None:
        wanted = RunFilter(states=frozenset({RunState.FAILED}))
        assert wanted.may_fit(self.RUN) and not wanted.may_fit(self.RUN._replace(state=RunState.COMPLETE))


@pytest.mark.parametrize(
    "text",
    ["cowsay", "numpy > 1 , < 3", "numpy (>=1)", "a==1.*", "torch[a, b]~=2.1+cpu ; python_version < '3.9'", "./mine",
     "torch --index-url https://example.org/cpu", "a @ https://example.org/a.whl", "-e .", "numpy==${VERSION}"],
)  # fmt: skip
def test_what_pip_can_read_is_left_to_it(text: str) -> None:
    assert parse_package(text) == text


def test_what_no_pip_can_read(recorded: Recorded) -> None:
    recorded.cases(parse_package, UsageError)


@pytest.mark.parametrize(
    ("line", "words", "brief"),
    [
        (Line("box", 1, 1), "next in line on box", "next in line"),
        (Line("box", 1, 2, holders=(None,)), "1st of 2 on box; a run of another client is running", "1st of 2"),
        (
            Line("box", 2, 3, (13, 12)),
            "2nd of 3 on box; runs 12 and 13 are running",
            "2nd of 3",
        ),
        (
            Line("box", 11, 23, (12, None, None), ("GPU 0 is used by x of al (process 8)",)),
            "11th of 23 on box; run 12 and 2 runs of other clients are running; GPU 0 is used by x of al (process 8)",
            "11th of 23",
        ),
    ],
)
def test_the_words_for_a_place(line: Line, words: str, brief: str) -> None:
    assert (str(line), line.brief) == (words, brief)


def test_gpus(recorded: Recorded) -> None:
    recorded.cases(parse_gpus)


def test_what_is_not_a_number_of_gpus(recorded: Recorded) -> None:
    recorded.cases(parse_gpus, UsageError)
