"""The readers of metrics against logs of programs that nobody here wrote: `tests/forms`, one log or file for each.

`forms.toml` says of each what a person would plot. A form is right where just that is found; unknown where less is, and
nothing false; wrong where a name, a step or a value is false, or two series are one. `pytest -s` prints the table.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from remoterun.agent.measuring import FORMATS, LOG, MOST_DATA, Point, reader
from tests.measured import read

FOLDER = Path(__file__).parents[1] / "forms"
FORMS: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "forms.toml").read_text())
NOISE = sorted(path.stem for path in (FOLDER / "noise").glob("*.log"))
LEAST = 144
"""Forms that are right."""
Pairs = list[tuple[float, float]]


class Verdict(NamedTuple):
    word: str
    """Of `right`, `unknown` and `wrong`."""
    why: str = ""


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    found = {name: judged(form, *found_in(path_of(name, form))) for name, form in FORMS.items()}
    for name, verdict in found.items():
        print(f"{name:30} {verdict.word:8} {verdict.why}"[:200])
    words = [verdict.word for verdict in found.values()]
    print({word: words.count(word) for word in ("right", "unknown", "wrong")})
    return found


def test_each_form_is_there_with_its_log() -> None:
    logs = {path.stem for path in FOLDER.glob("*.log")} | {path.parent.name for path in FOLDER.glob("*/*.*")}
    assert logs == {*FORMS, "noise"}


def test_no_form_is_wrong(verdicts: dict[str, Verdict]) -> None:
    wrong = {name: verdict.why for name, verdict in verdicts.items() if verdict.word == "wrong"}
    assert not wrong


def test_most_forms_are_right(verdicts: dict[str, Verdict]) -> None:
    right = [name for name, verdict in verdicts.items() if verdict.word == "right"]
    assert len(right) >= LEAST


@pytest.mark.parametrize("name", NOISE)
def test_noise_gives_nothing(name: str) -> None:
    points, total = found_in(FOLDER / "noise" / f"{name}.log")
    assert (points, total) == ([], None)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_gives_the_same_however_it_grows(name: str) -> None:
    path = path_of(name, FORMS[name])
    whole = repr(found_in(path))
    assert [repr(found_in(path, 7)), repr(found_in(path, 0))] == [whole, whole]


def test_epochs_that_begin_anew_as_of_folds_have_no_step() -> None:
    lines = [f"Epoch {epoch} - avg_loss: 0.{fold}{epoch}\n" for fold in range(3) for epoch in (1, 2, 3)]
    points, _ = read(reader(LOG), "".join(lines).encode(), patterns=[])
    assert [point.step for point in points] == [1, 2, 3, *[None] * 6]


def path_of(name: str, form: dict[str, Any]) -> Path:
    return FOLDER / name / form["file"] if "file" in form else FOLDER / f"{name}.log"


def found_in(path: Path, pieces: int | None = None) -> tuple[list[Point], float | None]:
    """The points and the total of a file that is there at once, or grows by `pieces` bytes; 0: by a line."""
    is_log = path.suffix == ".log" and path.parent in (FOLDER, FOLDER / "noise")
    format = LOG if is_log else next((each for each in FORMATS if each.matches(path.name)), None)
    if format is None:
        return [], None
    data, pieces = path.read_bytes(), None if format.whole else pieces
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    points, end = read(reader(format), data, ends if pieces == 0 else pieces or MOST_DATA, patterns=[])
    return points, end.get("total") or None


def judged(form: dict[str, Any], points: list[Point], total: float | None) -> Verdict:
    """By the kindest of the ways to count steps that the form allows."""
    found: dict[str, list[Point]] = {}
    names = {plain(name): name for name in form.get("may", ())}
    for name in form["series"]:
        names.update({plain(each): name for each in (*form.get("also", {}).get(name, ()), name)})
    for point in points:
        found.setdefault(names.get(plain(point.name), point.name), []).append(point)
    ways = [(1.0, 0.0), *((scale, offset) for scale, offset in form.get("step_also", ()))]
    every = [_judged(form, found, total, scale, offset) for scale, offset in ways]
    return min(every, key=lambda verdict: ["right", "unknown", "wrong"].index(verdict.word))


def _judged(
    form: dict[str, Any], found: dict[str, list[Point]], total: float | None, scale: float, offset: float
) -> Verdict:
    false = sorted(set(found) - set(form["series"]) - set(form.get("may", ())))
    if false:
        return Verdict("wrong", f"false: {', '.join(false)}")
    less = []
    for name in form["series"]:
        verdict = Wanted.of(form, name, scale, offset).judge(found.get(name, []))
        if verdict.word == "wrong":
            return Verdict("wrong", f"{name}: {verdict.why}")
        if verdict.word == "unknown":
            less.append(f"{name}: {verdict.why}")
    expected = form.get("total", form.get("total_may", float("nan"))) * scale
    if total is not None and not close(total, expected, max(1, form.get("tolerance", 0) * expected)):
        return Verdict("wrong", f"total {total:g}, not {expected:g}")
    if total is None and "total" in form:
        less.append("no total")
    return Verdict("unknown", "; ".join(less)) if less else Verdict("right")


class Wanted(NamedTuple):
    """A series that a person would plot. `forms.toml` says what the words mean."""

    count: int
    least: float
    steps: Pairs
    """The first and the last step that it may have. Empty: the log says no steps."""
    values: Pairs
    inner: dict[float, list[float]]
    """The values that the points at some steps in between may have."""
    slack: float
    """By which a step may be off."""
    bar: bool
    untimed: bool

    @classmethod
    def of(cls, form: dict[str, Any], name: str, scale: float, offset: float) -> Wanted:
        count, *ends = form["series"][name]
        values = [(ends[-3], ends[-1]) if len(ends) == 4 else (ends[0], ends[1])]
        values += [(first, last) for first, last in form.get("values_also", {}).get(name, ())]
        steps = [(ends[0], ends[2]), *form.get("steps_also", {}).get(name, ())] if len(ends) == 4 else []
        steps = [(first * scale + offset, last * scale + offset) for first, last in steps]
        rows = form.get("inner", {}).get(name, ())
        inner = {step * scale + offset: values for step, *values in rows}
        bar = form.get("bar", False)
        least = min(count, form.get("least", count / 2 if bar else count))
        slack = max((form.get("tolerance", 0.0) * last for _, last in steps), default=0.0)
        return cls(count, least, steps, values, inner, slack, bar, form.get("untimed", False) or not steps)

    def judge(self, points: list[Point]) -> Verdict:
        if not points:
            return Verdict("unknown", "nothing")
        if all(point.step is None for point in points):
            if len(points) > self.count and not self.bar:
                return Verdict("wrong", f"{len(points)} points, not {self.count}")
            return Verdict("right" if self.untimed and len(points) >= self.least else "unknown", "no steps")
        newest = {at if point.step is None else point.step: point.value for at, point in enumerate(points)}
        steps = list(newest)
        if steps != sorted(steps) or len(steps) < len(points) and not self.bar:
            return Verdict("wrong", f"steps lie on each other: {shown([point.step or 0 for point in points])}")
        if len(steps) > self.count:
            return Verdict("wrong", f"{len(steps)} points, not {self.count}")
        for step, values in self.inner.items():
            if step in newest and not any(close(newest[step], value) for value in values):
                return Verdict("wrong", f"value {newest[step]:g} at step {step:g}")
        return self._ends(newest, steps)

    def _ends(self, newest: dict[float, float], steps: list[float]) -> Verdict:
        """Whether the first and the last are right; fewer points may begin later, or end earlier."""
        first, last, whole = steps[0], steps[-1], len(steps) == self.count
        in_range = [pair for pair in self.steps if pair[0] - self.slack - 0.001 <= first]
        pairs = [pair for pair in in_range if close(last, pair[1], self.slack)]
        begun = [pair for pair in pairs if close(first, pair[0], self.slack)]
        at_end = any(close(newest[last], value) for _, value in self.values)
        if not pairs or whole and not begun:
            partial = not whole and not at_end and any(last < pair[1] for pair in in_range)
            return Verdict("unknown" if partial else "wrong", f"steps {shown(steps)}")
        if not at_end:
            return Verdict("wrong", f"last value {newest[last]:g}")
        if begun and not self.bar and not any(close(newest[first], value) for value, _ in self.values):
            return Verdict("wrong", f"first value {newest[first]:g}")
        return (
            Verdict("right") if len(steps) >= self.least else Verdict("unknown", f"{len(steps)} of {self.count} points")
        )


def plain(name: str) -> str:
    """Names are the same where their letters and digits are."""
    return "".join(each for each in name.lower() if each.isalnum())


def close(one: float, other: float, slack: float = 0.0) -> bool:
    return one == other or abs(one - other) <= max(slack, 2e-3 * max(abs(one), abs(other)), 1e-9)


def shown(steps: list[float]) -> str:
    texts = [f"{step:g}" for step in steps]
    return " ".join(texts if len(texts) < 8 else [*texts[:4], "…", *texts[-3:]])
