"""Parameters of a set of runs: what is typed after `--param`, and the combinations of values that follow from it."""

from __future__ import annotations

import itertools
import math
import random
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from remoterun.agent.shared.tree import show
from remoterun.errors import UsageError
from remoterun.parsing import VARIABLE, did_you_mean, known_words

MOST_RUNS = 5_000
"""Runs of a set: a host answers about all of them in one answer (see `agent.shared.api`)."""
LINEAR, LOG, INT = KINDS = ("linear", "log", "int")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER}):({_NUMBER})(?::([a-z]\w*))?")
_WORD = re.compile(r":([A-Za-z_]\w*):")
_LONE_WORD = re.compile(rf"(?<![\w\])\[:.]){_WORD.pattern}(?![\w\[\]])")
"""What can hardly be anything else: no slice of Python, and no part of an address."""


@dataclass(frozen=True)
class Parameter:
    """Either `values`, or a range from `low` to `high`, of which values are drawn."""

    name: str
    typed: str
    values: Sequence[str | int] = ()
    low: float = 0.0
    high: float = 0.0
    kind: str = ""

    def drawn(self, chance: random.Random) -> str:
        if self.values:
            return str(chance.choice(self.values))
        if self.kind == LOG:
            return f"{math.exp(chance.uniform(math.log(self.low), math.log(self.high))):.4g}"
        return f"{chance.uniform(self.low, self.high):.4g}"


def parse_parameter(text: str) -> Parameter:
    """Of `NAME=a,b`, `NAME=1:10:int`, `NAME=1e-4:1e-1:log` or `NAME=0:1`. Raises `UsageError`."""
    name, _, typed = text.partition("=")
    if not VARIABLE.fullmatch(name) or not typed:
        raise UsageError(f"`{show(text)}` is not a parameter with its values", hint="--param lr=0.1,0.01")
    found = _RANGE.fullmatch(typed)
    if found is None:
        values = tuple(dict.fromkeys(typed.split(",")))
        if "" in values:
            raise UsageError(f"a value of `{name}` is empty", hint="--param lr=0.1,0.01")
        return Parameter(name, typed, values)
    low, high, kind = float(found[1]), float(found[2]), found[3] or LINEAR
    if kind not in KINDS:
        raise UsageError(f"`{kind}` is not a kind of range", hint=known_words(kind, KINDS))
    if not -1e18 < low < high < 1e18 or (kind == LOG and low <= 0):
        above = " above 0" if kind == LOG else ""
        raise UsageError(f"`{typed}` is not a range from one number{above} to a larger one", hint="--param lr=0.01:1")
    if kind != INT:
        return Parameter(name, typed, low=low, high=high, kind=kind)
    if not (low.is_integer() and high.is_integer()):
        raise UsageError(f"the ends of `{typed}` are not whole numbers", hint="--param layers=1:10:int")
    return Parameter(name, typed, range(int(low), int(high) + 1), kind=kind)


def combinations(parameters: Sequence[Parameter], count: int | None, seed: str) -> list[dict[str, str]]:
    """All combinations of values, by the names of the parameters; or `count` that are drawn, the same for the same
    `seed`: of more there are those of fewer, and further ones. Raises `UsageError`."""
    names = [each.name for each in parameters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"the parameter `{twice}` is given twice", hint=f"--param {twice}=1,2   has both values")
    endless = next((each for each in parameters if not each.values), None)
    if count is None and endless is not None:
        some = ",".join(f"{value:.4g}" for value in (endless.low or endless.high / 2, endless.high))
        raise UsageError(
            f"`{endless.name}={endless.typed}` has no end of values",
            hint=f"--random 20   draws 20 combinations\n--param {endless.name}={some}   names values",
        )
    total = math.inf if endless is not None else math.prod(len(each.values) for each in parameters)
    wanted = total if count is None else min(count, total)
    if wanted > MOST_RUNS:
        raise UsageError(f"a set has {MOST_RUNS} runs at the most, and this one {wanted}", hint="--random 20")
    if wanted == total:
        every = itertools.product(*(map(str, each.values) for each in parameters))
        return [dict(zip(names, each, strict=True)) for each in every]
    chance, found = random.Random(seed), dict[tuple[str, ...], None]()
    for _ in range(100 * MOST_RUNS):
        found[tuple(each.drawn(chance) for each in parameters)] = None
        if len(found) == wanted:
            return [dict(zip(names, each, strict=True)) for each in found]
    raise UsageError(f"the ranges hold fewer than {wanted} combinations of values", hint=f"--random {len(found)}")


def check_command(command: str, names: Collection[str]) -> None:
    """Refuse a command with a word that looks like a parameter, and is none. Raises `UsageError`."""
    unknown = next((found[1] for found in _LONE_WORD.finditer(command) if found[1] not in names), None)
    if unknown is not None:
        close = did_you_mean(unknown, names)
        hint = f"did you mean `:{close}:`?" if close else f"--param {unknown}=1,2"
        raise UsageError(f"the command holds `:{unknown}:`, which no --param names", hint=hint)


def filled(command: str, values: Mapping[str, str]) -> str:
    """The command with the value of each parameter, as a word of the shell, in the place of `:NAME:`. Raises
    `UsageError` for one within quotes, which would be no word there."""

    def word(found: re.Match[str]) -> str:
        value = shlex.quote(values[found[1]]) if found[1] in values else found[0]
        if value != values.get(found[1], value) and _ends_quoted(command[: found.start()]):
            what = f"`:{found[1]}:` stands within quotes, where the value {value} would not be one word"
            raise UsageError(what, hint=f"write :{found[1]}: without quotes: its value gets those that it needs")
        return value

    return _WORD.sub(word, command)


def _ends_quoted(text: str) -> bool:
    """Whether a shell is within quotes at the end of a text."""
    return re.fullmatch(r"""(?:[^'"\\]|\\.|'[^']*'|"(?:[^"\\]|\\.)*")*""", text, re.DOTALL) is None
