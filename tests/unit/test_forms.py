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
PENDING = {
    "absl",
    "cyclegan",
    "deepspeed-engine",
    "detectron2",
    "diffusers-dreambooth-lora",
    "diffusers-text-to-image",
    "docker",
    "fairseq",
    "fairseq-json",
    "hf-trainer",
    "hf-trainer-5",
    "hf-trainer-no-bar",
    "keras-gan",
    "kohya-ss",
    "loguru",
    "megatron",
    "mmengine-epochs",
    "mmengine-iterations",
    "pix2pix",
    "pytorch-gan",
    "pytorch-gan-pix2pix",
    "rsl-rl",
    "timm",
    "trl",
    "word-language-model",
}
"""Forms that are wrong yet, and logs of noise in which something is found."""
LEAST = 5
"""Forms that are right."""
Alternatives = list[tuple[float, float]]


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
    assert not {name: why for name, why in wrong.items() if name not in PENDING}


def test_most_forms_are_right(verdicts: dict[str, Verdict]) -> None:
    right = [name for name, verdict in verdicts.items() if verdict.word == "right"]
    assert len(right) >= LEAST


@pytest.mark.parametrize("name", NOISE)
def test_noise_gives_nothing(name: str) -> None:
    points, total = found_in(FOLDER / "noise" / f"{name}.log")
    assert name in PENDING or (points, total) == ([], None)


@pytest.mark.parametrize("name", FORMS)
def test_a_form_gives_the_same_however_it_grows(name: str) -> None:
    path = path_of(name, FORMS[name])
    whole = repr(found_in(path))
    assert name in PENDING or [repr(found_in(path, 7)), repr(found_in(path, 0))] == [whole, whole]


def path_of(name: str, form: dict[str, Any]) -> Path:
    return FOLDER / name / form["file"] if "file" in form else FOLDER / f"{name}.log"


def found_in(path: Path, pieces: int | None = None) -> tuple[list[Point], float | None]:
    """The points and the total of a file that is there at once, or grows by `pieces` bytes; 0: by a line."""
    is_log = path.suffix == ".log" and path.parent in (FOLDER, FOLDER / "noise")
    format = LOG if is_log else next((each for each in FORMATS if each.matches(path.name)), None)
    if format is None:
        return [], None
    data = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(data) if byte == ord("\n")]
    points, end = read(reader(format), data, ends if pieces == 0 else pieces or MOST_DATA, patterns=[])
    return points, end.get("total")


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
    for name, expected in form["series"].items():
        wanted = Wanted.of(form, name, expected, scale, offset)
        verdict = wanted.judge(found.get(name, []), form.get("bar", False))
        if verdict.word == "wrong":
            return Verdict("wrong", f"{name}: {verdict.why}")
        if verdict.word == "unknown":
            less.append(f"{name}: {verdict.why}")
    if total is not None and not ("total" in form and close(total, form["total"] * scale, abs(offset) + 1)):
        return Verdict("wrong", f"total {total:g}, not {form.get('total', 'any')}")
    if total is None and "total" in form:
        less.append("no total")
    return Verdict("unknown", "; ".join(less)) if less else Verdict("right")


class Wanted(NamedTuple):
    """A series that a person would plot: how many points, and the first and the last step and value it may have."""

    count: int
    steps: Alternatives
    """Empty: the log says no steps."""
    values: Alternatives
    near: float
    """Share of the last step by which a step may be off, where the log does not say how long an epoch is."""

    @classmethod
    def of(cls, form: dict[str, Any], name: str, expected: list[float], scale: float, offset: float) -> Wanted:
        count, *ends = expected
        steps = [(ends[0], ends[2]), *map(tuple, form.get("steps_also", {}).get(name, ()))] if len(ends) == 4 else []
        values = [(ends[-3], ends[-1]) if len(ends) == 4 else (ends[0], ends[1])]
        values += [tuple(each) for each in form.get("values_also", {}).get(name, ())]
        scaled = [(first * scale + offset, last * scale + offset) for first, last in steps]
        return cls(int(count), scaled, values, form.get("tolerance", 0.0))

    def judge(self, points: list[Point], bar: bool) -> Verdict:
        """`bar`: what is drawn again, of which the newest of a step counts, and not each drawing must be read."""
        if not points:
            return Verdict("unknown", "nothing")
        untimed = [point for point in points if point.step is None]
        if untimed:
            if len(untimed) < len(points) or len(points) > self.count and not bar:
                return Verdict("wrong", f"{len(points)} points, {len(untimed)} of them without a step")
            return Verdict("unknown" if self.steps or len(points) < self.count else "right", "no steps")
        steps = [point.step for point in points if point.step is not None]
        newest = dict(zip(steps, (point.value for point in points), strict=True))
        if steps != sorted(steps) or len(newest) < len(steps) and not bar:
            return Verdict("wrong", f"steps lie on each other: {shown(steps)}")
        if len(newest) > self.count:
            return Verdict("wrong", f"{len(newest)} points, not {self.count}")
        first, *_, last = [*newest, max(newest)]
        slack = self.near * max(abs(end) for _, end in self.steps) if self.steps else 0
        pairs = [pair for pair in self.steps if pair[0] - slack - 1e-3 <= first and close(last, pair[1], slack)]
        if not pairs and self.steps:
            known = any(pair[0] - 1e-3 <= first and last <= pair[1] + 1e-3 for pair in self.steps)
            whole = len(newest) == self.count
            return Verdict("wrong" if whole or not known else "unknown", f"steps {shown(list(newest))}")
        if not any(close(newest[last], end) for _, end in self.values):
            return Verdict("wrong", f"last value {newest[last]:g}")
        at_first = not self.steps or any(close(first, pair[0], slack) for pair in pairs)
        if len(newest) == self.count and not at_first:
            return Verdict("wrong", f"steps {shown(list(newest))}")
        if at_first and not any(close(newest[first], begin) for begin, _ in self.values) and not bar:
            return Verdict("wrong", f"first value {newest[first]:g}")
        least = self.count / 2 if bar else self.count
        return Verdict("right") if len(newest) >= least else Verdict("unknown", f"{len(newest)} points of {self.count}")


def plain(name: str) -> str:
    """Names are the same where their letters and digits are."""
    return "".join(each for each in name.lower() if each.isalnum())


def close(one: float, other: float, slack: float = 0.0) -> bool:
    return one == other or abs(one - other) <= max(slack, 2e-3 * max(abs(one), abs(other)), 1e-9)


def shown(steps: list[float]) -> str:
    texts = [f"{step:g}" for step in steps]
    return " ".join(texts if len(texts) < 8 else [*texts[:4], "…", *texts[-3:]])
