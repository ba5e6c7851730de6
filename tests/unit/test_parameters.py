"""The grammar of `--param`, and the combinations that follow from it."""

from __future__ import annotations

import pytest

from remoterun.client.sets.parameters import check_command, combinations, filled, parse_parameter
from remoterun.errors import UsageError
from tests.recorder import Recorded


def combined(*typed: str, count: int | None = None, seed: str = "") -> list[dict[str, str]]:
    return combinations([parse_parameter(each) for each in typed], count, seed)


def shown(line: str) -> str:
    """The combinations of what is typed, or why there are none."""
    *typed, last = line.split()
    count = int(typed.pop().removeprefix("--random=")) if typed and typed[-1].startswith("--random=") else None
    try:
        found = combined(*typed, last, count=count)
    except UsageError as error:
        return f"{error.message}\n{error.hint}"
    return "\n".join(" ".join(f"{name}={value}" for name, value in each.items()) for each in found)


def test_combinations(recorded: Recorded) -> None:
    recorded.cases(shown)


def test_the_same_is_drawn_for_the_same_name_and_more_has_the_former() -> None:
    typed = ["lr=1e-4:1e-1:log", "units=16:512:int", "kind=a,b", "keep=0:1"]
    few, more = combined(*typed, count=20, seed="night"), combined(*typed, count=50, seed="night")
    assert more[:20] == few == combined(*typed, count=20, seed="night") != combined(*typed, count=20, seed="day")
    assert len({tuple(each.values()) for each in more}) == 50
    for each in more:
        assert 1e-4 <= float(each["lr"]) <= 0.1 and 16 <= int(each["units"]) <= 512 and 0 <= float(each["keep"]) <= 1
    assert sum(float(each["lr"]) < 0.00316 for each in more) > 15, "half of them lie below the middle of a log range"
    assert combined("a=1,2,3", "b=1,2", count=100) == combined("a=1,2,3", "b=1,2")


def test_values_stand_in_the_command_as_words_of_the_shell() -> None:
    values = {"lr": "0.1", "text": "a 'b' $c", "x": ":lr:"}
    assert filled("t --lr=:lr: :text: :x::lr: :other: a[:lr:]", values) == (
        "t --lr=0.1 'a '\"'\"'b'\"'\"' $c' :lr:0.1 :other: a[0.1]"
    )


@pytest.mark.parametrize("command", ['echo ":n:"', "echo ':n:'", "echo 'it'\\''s' \"a \\\" :n:\""])
def test_no_value_is_a_way_out_of_quotes(command: str) -> None:
    with pytest.raises(UsageError, match="`:n:` stands within quotes"):
        filled(command, {"n": "$(touch X)"})
    assert filled(command, {"n": "0.1"}) == command.replace(":n:", "0.1")
    assert filled('echo "a" \'b\' \\" :n:', {"n": "a b"}).endswith(" 'a b'")


@pytest.mark.parametrize("command", ["x[1:n:2] y[:n:]", "http://host:port:", "a::b::", "-v data:model:ro", "12:30:00"])
def test_what_else_has_colons_is_left_alone(command: str) -> None:
    check_command(command, ["lr"])
    assert filled(command, {"lr": "1"}) == command


def test_a_word_that_is_no_parameter_is_refused() -> None:
    with pytest.raises(UsageError, match="`:unit:`, which no --param names") as refused:
        check_command("train.py --lr :lr: --units ':unit:'", ["lr", "units"])
    assert refused.value.hint == "did you mean `:units:`?"
