"""Records: typed on both sides, and nothing comes in that a field can't hold."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remoterun.agent.shared.api import REQUESTS
from remoterun.agent.shared.facts import RunStatus
from remoterun.agent.shared.records import BadRecord, Record, from_json, option, same_fields, to_json
from remoterun.agent.shared.states import OutputsSize, Reason, RunState


class Inner(Record):
    number: int
    words: list[str] = []


class Outer(Record):
    inner: Inner
    share: float = 0.5
    state: RunState | None = None
    table: dict[str, Inner] = {}
    whole: bool = False


class Shown(Inner):
    """Another name for the same fields, with a method."""

    def show(self) -> str:
        return f"{self.number}: {self.words}"


STATUS = RunStatus("k", RunState.FAILED, 1.5, reason=Reason.DISK_FULL, code=3, outputs=OutputsSize(1, 2))


@pytest.mark.parametrize("record", [Inner(1, ["a"]), STATUS, STATUS._replace(reason=None, outputs=None)])
def test_there_and_back(record: Any) -> None:
    assert from_json(type(record), json.loads(json.dumps(to_json(record)))) == record


def test_a_record_is_made_and_read_as_a_named_tuple() -> None:
    outer: Any = Outer(Inner(1), whole=True)
    assert outer == (Inner(number=1, words=[]), 0.5, None, {}, True)
    assert (outer.inner.number, outer.whole) == (1, True)
    assert outer._replace(share=1.0)._asdict() == {**outer._asdict(), "share": 1.0}
    assert repr(Inner(1, ["a"])) == "Inner(number=1, words=['a'])"
    assert Shown(*Inner(1, ["a"]))._replace(number=2).show() == "2: ['a']"
    assert copy.deepcopy(outer) == pickle.loads(pickle.dumps(outer)) == outer
    with pytest.raises(AttributeError):
        outer.share = 1.0


def test_a_record_has_the_fields_of_those_that_it_is_made_of() -> None:
    class Named(Record, kw_only=True):
        name: str = option("", "--name NAME", "A name.", right=str.islower, what="small", secret=True)
        size: int = 3

    class Sized(Record, kw_only=True):
        sizes: tuple[int, ...] = option((), "--size N", "A size.", right=lambda size: size > 0, what="a size")

    class Both(Named, Sized):
        number: int

    both = Both(1, sizes=(2,), name="a")
    assert Both._fields == ("number", "name", "size", "sizes") and both == (1, "a", 3, (2,))
    assert from_json(Both, to_json(both)) == both
    assert "name" not in repr(both) and same_fields(Sized, both) == {"sizes": (2,)}
    assert list(Both._options) == ["name", "sizes"] and Both._options["sizes"].flag == "--size"
    assert [Both._options["name"].wrong(value) for value in ("", "a", "A")] == ["", "", "`A` is not small"]
    assert Both._options["sizes"].wrong((1, 0)) == "`0` is not a size"
    with pytest.raises(TypeError):
        option("", "--name NAME", "A name.", colour="red")


@pytest.mark.parametrize("wrong", [((), {}), ((1, [], 2), {}), ((1,), {"number": 2}), ((1,), {"colour": "red"})])
def test_a_record_has_its_fields_and_no_others(wrong: Any) -> None:
    values, named = wrong
    with pytest.raises(TypeError, match="Inner has the fields number, words"):
        Inner(*values, **named)


def test_what_a_newer_version_adds_is_dropped() -> None:
    assert from_json(Inner, {"number": 1, "colour": "red"}) == Inner(1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": "1"}, {"number": True}, {"number": 1.0}, {"number": 1 << 63}, {"number": -(10**400)}, {}, [], None,
        {"number": 1, "words": "ab"}, {"number": 1, "words": [1]}, {"number": 1, "words": ["\ud800"]},
    ],
)  # fmt: skip
def test_what_a_field_cannot_hold(wrong: Any) -> None:
    with pytest.raises(BadRecord):
        from_json(Inner, wrong)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(said=st.dictionaries(st.sampled_from([*RunStatus._fields]), JSON, max_size=4))
def test_any_json_is_a_record_or_refused(said: dict[str, Any]) -> None:
    try:
        record = from_json(RunStatus, {"key": "k", "state": "running", **said})
    except BadRecord:
        return
    assert from_json(RunStatus, json.loads(json.dumps(to_json(record)))) == record


def test_every_type_of_the_page_can_be_read() -> None:
    """A type that `from_json` does not know would show only when it is first used; and whoever starts an agent waits
    for the making of them all."""
    for request in REQUESTS.values():
        for type_ in (request.arguments, request.result):
            assert issubclass(type_, Record)
            with pytest.raises(BadRecord):
                from_json(type_, 5)
            if not [name for name in type_._fields if name not in type_._field_defaults]:
                assert from_json(type_, {}) == type_()
