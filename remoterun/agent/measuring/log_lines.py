"""The log: what programs print for people. Each line is told what it is, by its structure, and not by who printed it.

1. What a logger puts before a message is cut off: dates, levels, `train.py:50]`, `__main__:train:42 -`, `[rank0]:`.
2. Counters: `step 120/3000`, `Epoch: [3][ 10/5005]`, `[0/25][100/1583]`, tqdm's and Keras' bars. What falls as an epoch
   begins is a count within the epoch, and is counted through: batch 5 of 100 in epoch 2 is step 105; where a log does
   not say how many there are, the count goes on by the distance of its lines. What falls without an epoch was restarted.
   A second bar within one epoch, and one that says `Test`, is an evaluation's: its last state counts, at the step of
   the training. Where a line has an epoch alone, that is the step, unless steps are counted beside it.
3. Pairs: `loss: 0.5`, `D loss 0.5`, `'loss': 0.5`, `accuracy=97%`. They count if the line has a counter, or one above
   has (as `val loss 3.85`, on a line of its own), or else, by time, those that are a usual metric: `port: 8000` is none.
   What says how long or how much a step took is none, either: `time`, `eta`, `mem`, `tok/s`, all with a unit.
4. A line, or a heading, that begins with `val`, `Test` … gives its metrics that name: `test/Accuracy`.
5. Tables: a row has as many cells as the header above it, of which one names the step; or, between two rules, each row
   has a name and a number. JSON in a line is as in a file.

What is printed under one name twice in one line, or twice at one step, is never laid over each other: the first has no
series, the second no step. `unread`: how many numbers those lines have that come again and again, but have no metric.

In the user's regular expressions each named group is a metric, but `step` and `epoch` are the step.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Match, Optional, Tuple

from . import Point
from .lines import STEPS, number, parse, points, split

LONGEST = 2000  # Bytes of a line; a longer one is skipped.
DRAWN = 200  # States that count of a bar that is drawn again and again, beside its last one.
MOST = 64  # Counters, rows of a table, and forms of lines that are held.
OFTEN = 5  # Lines of one form, from which on it is said that their numbers are not understood.
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_INT = r"[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])|[0-9]{1,15}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"
_LOGGER = re.compile(
    rf"[\s\[(|:,>-]{{0,9}}(?:(?:[0-9]{{4}}[-/.][0-9]{{2}}[-/.][0-9]{{2}}|[0-9]{{2}}[-/.][0-9]{{2}}(?:[-/.][0-9]{{2,4}})?)"
    rf"[T\s,_-]{{1,3}}{_CLOCK}[\w+:.-]{{0,9}}|[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}(?=[\s\]])|[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}"
    rf"(?:[.,][0-9]{{1,9}})?(?=[\s\]])|[IWEF][0-9]{{4}} {_CLOCK}\s{{1,9}}[0-9]{{1,20}}|(?:time|ts|level|msg|caller)=(?:\"[^\"]{{0,200}}\"|\S{{1,99}})"
    r"|(?:TRACE|DEBUG|INFO|NOTICE|SUCCESS|WARN(?:ING)?|ERROR|CRITICAL)(?![\w=])(?::[\w.]{1,99}:)?|[\w./<>-]{1,99}\.(?:py|cc|cpp|cu):[0-9]{1,6}(?::\w{1,99})?"
    r"|[\w.<>]{1,99}:[\w<>]{1,99}:[0-9]{1,6}(?=\s-)|\[?[Rr]ank[\s:]?[0-9]{1,6}(?=\]))[\s\])|:,>-]{0,9}"
)
_CHANNEL = re.compile(r"[\[(|]?([\w.]{1,99})(?:\s-\s|\s\|\s|\]:?(?=[\s\[]))\s{0,9}")
_LABEL = re.compile(
    r"\W{0,9}(train|val|valid|test|eval)(?:ing|uation|idation|ation|idating|idate)?(?=[\s:\[(|>]|$)", re.I
)
_OWN_LABEL = re.compile(r"(?:^|[\W_])(train|val|test|eval|dev)", re.I)
_WORDS = (
    *("kimg", "num_updates", "global step", "total timestep", "step", "timestep", "learning iteration", "iteration"),
    *("iter", "itr", "update", "round", "tick", "minibatch", "batch", "episode", "generation", "part", "epoch", "ep"),
)
"""Of counters, those first that say most of how far a run is; `part` is of an epoch: 0.25."""
_PLURAL = ("step", "timestep", "total timestep", "update", "episode")
"""Words that say where a run is in the plural, too: `steps: 10`. Of the others, that is how many there are in all."""
_COUNTER = re.compile(
    rf"(?<![\w/.@-])({'|'.join(_WORDS).replace(' ', '[ _]')})(s?)(?:\((\w{{1,20}})\))?['\"]?(?:\s{{0,3}}[:=#]\s{{0,3}}|\s{{1,9}}|(?=[\[(]))"
    rf"['\"]?[\[(]?\s{{0,9}}(?:[0-9]{{1,15}}-)?((?:{_INT})(?:\.[0-9]{{1,15}})?)(?![\w%]|[.:-][0-9])(?:\s?(?:/|of)\s{{0,9}}({_INT})(?![\w%.]))?[\])]?",
    re.I,
)
_BEFORE = re.compile(
    r"(?:^\s*|(?<!\w)[^a-z\s]\s?|[^a-z\s(]\s?|\s\s|\b(?:at|of|end|start|starting|begin|train|training|val|validation|valid|test"
    r"|eval|current|finished|after|for|in|global) )$",
    re.I,
)
_FRACTION = re.compile(
    rf"(?:^|[\[(|])[:,]?\s{{0,9}}({_INT})\s{{0,3}}/\s{{0,9}}({_INT}|Unknown)(?![\w/.])(?:\s?\(\s{{0,3}}[0-9]{{1,3}}%\))?[\])]?"
)
_PLACE = re.compile(r"\[([0-9]{1,15}),\s{1,9}([0-9]{1,15})\]")  # PyTorch's tutorials.
_PASS = re.compile(r"(?:train|test|valid|val|eval)\w{0,9}: ?([0-9]{1,15}) (?=\[)", re.I)  # timm.
_FIRST = re.compile(r"\s{0,9}(?:\[([0-9]{1,15})(?: \| [0-9.]{1,15})?\]|([0-9]{1,15}):?)(\t| {1,3}(?=\[)|(?<=\]) )")
_FILES = re.compile(r"\W{0,9}(?:sav|load|writ|wrot|restor|resum|creat|download)\w{0,9}\b", re.I)
"""How a line begins that says what was done with files."""
_BAR = re.compile(r"[0-9]{1,3}%\|[^|]{0,300}\||\[?[0-9?:]{1,12}<[0-9?:, ]{1,20}|\b[0-9]{1,3}:[0-9]{2}(?::[0-9]{2})?\b")
_UNIT = (
    r"(?:[kmun]?s|secs?|seconds?|m|mins?|minutes?|h|hours?|[kmgt]i?b?|it|tok|tokens|img|imgs|images|samples|steps|examples)"
    r"(?:/\w{1,9})?(?!\w|\.\w|\s?[=:])"
)
_VALUE = r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9,])|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?|nan|inf(?:inity)?)"
_PAIR = re.compile(
    r"(?<![\w./@-])((?:[a-z_][\w./@()'-]{0,40} ){0,3}[a-z_][\w./@()'-]{0,99}?)(?: \(\w{1,12}\))?"
    rf"(['\"]?\s{{0,3}}(?:=|:(?=\s)|:)\s{{0,9}}['\"\[]?|\s{{1,9}})({_VALUE})(?!\w|:(?!\s{{1,3}}\|)|[.,-][0-9]|/[a-z])"
    r"(\s(?:->|[-+]?[0-9.]{1,20}(?![\w%])))?(\s{0,3}%|/[0-9]{1,15})?",
    re.I,
)
_MEASURE = re.compile(rf"{_VALUE}\s?{_UNIT}", re.I)
_WORD = re.compile(r"[a-z_]{2,}", re.I)
MOST_WORDS = 6
"""Words that a line may have beside its pairs, or it is a sentence; one, if it continues the line above."""
_KNOWN = "loss|acc|accuracy|perplexity|ppl|bpc|mae|[rm]?mse|rmsle|logloss|wer|cer|auc|f1|bleu|rouge\\w?|reward|fid\\w{0,9}|inertia"
_USUAL = re.compile(rf"(?:^|[\W_])(?:{_KNOWN})$", re.I)
"""Metrics that need no step beside them."""
_COMMON = re.compile(
    rf"(?:^|[\W_])(?:{_KNOWN}|\w{{0,9}}loss|top[_-]?[15]|acc[_-]?[15]|lr|learning[ _]rate|(?:grad|g)?_?norm|kl\w*|score|return|nll|entropy|error|precision|recall"
    r"|psnr|ssim|lpips|m?iou|m?ap(?:50)?|dice)(?![a-z])",
    re.I,
)
"""Those that need no sign after their name, beside a step."""
_COST = re.compile(
    r"(?:^|[\W_])(?:(?:\w*time|secs?|seconds?|ms|eta|elapsed|remaining|took|taken|duration|runtime|speed|throughput|fps|sps|ups|wps|wpb|bsz"
    r"|wall|clock|mfu|flops|tflops|mem|memory|\w*mem|gpu|cpu|vram|ram|gb|gb_free|size|data|port|pid|rank|seed|version|v_num|num|number|count|samples|tokens"
    r"|tok|workers|skipped|tps|sents|instances|images|imgsz|maintenance|reserved|\w*persec|iters?|iterations?|batch(?:es)?|epochs?|steps?|params|parameters|best|progress|per_second|world|width|height|date|total)(?:$|[\W_]))",
    re.I,
)
"""Words of names that say what a step costs, or how a run is set, and not how good it is."""
_NUMBER = re.compile(r"(?<![\w.])[-+]?[0-9][0-9.,]{0,20}(?:e[-+]?[0-9]{1,3})?(?!\w)|\b(?:nan|inf)\b", re.I)
_RULE = re.compile(r"[\s|+=_*#-]{5,}$")
_CELLS = re.compile(r"\s{0,99}[|\t]\s{0,99}|\s{2,99}")
_HEADS = {"#": 0, "step": 1, "iter": 2, "iteration": 3, "round": 4, "epoch": 5, "e": 6}
_GAUGE = re.compile(r":?\s{0,9}[0-9]{1,3}%\|.*")


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    found: List[Point] = []
    marked = data.replace(b"\r\n", b" \n").replace(b"\r", b"\r\n").replace(b"\b", b" ")
    whole, consumed = split(marked, state, LONGEST)
    consumed -= marked.count(b"\r\n", 0, consumed)
    for text in (_ESCAPE.sub("", line.decode("utf-8", "replace")) for line in whole):
        found += _Line(text.rstrip("\r"), text.endswith("\r"), state).points()
    if state.get("ended"):
        found += [Point(*each[:2], state.get("step"), *each[3:]) for each in state.pop("held", ())]
    return found, consumed


class _Line:
    """One line. What the lines before it have said is in `state`: `counters`, by their words; `epoch`, [now, of how many];
    `step`, at which the log is; `heading`, the label above; `table`; `at`, the last step of each series."""

    def __init__(self, text: str, drawn: bool, state: Dict[str, Any]) -> None:
        self._raw, self._state = text, state
        self._redrawn, self._drawn = drawn, drawn or "%|" in text  # Its last state is to come.
        self._text = _message(text)
        self._source = ""  # What counted its steps.
        self._own = False  # Whether the line itself says where the run is,
        self._named = False  # and by a word.
        self._counter: Dict[str, Any] = {}
        label = _LABEL.match(self._text)
        self._label = label[1].lower() if label else ""

    def points(self) -> List[Point]:
        if not _NUMBER.search(self._raw):
            if self._label and self._label != "train":
                self._state["heading"] = self._label
            return self._row_or_rule() or []
        patterns = [re.search(pattern, self._raw) for pattern in self._state.get("patterns", ())]
        values = {name: value for match in patterns if match for name, value in match.groupdict().items() if value}
        if not values:
            for known in (self._object(), self._row_or_rule()):
                if known is not None:
                    return known
        if not values and _FILES.match(self._text):
            return []
        before = self._text
        step, counts = self._place()
        if values:
            numbers = {name: number(value) for name, value in values.items()}
            return list(points(numbers if "epoch" in numbers else {"step": step, **numbers}))
        found = self._given(self._values(step), step) if counts else []
        if self._own:
            self._state["block"] = counts and not found
        if not found:
            self._unread(before)
        return found

    # -- where the run is

    def _place(self) -> Tuple[Optional[float], bool]:
        """The step, and whether the line counts."""
        state, counters = self._state, self._counters()
        epoch = next((each for each in counters if each[0] == "epoch"), None)
        inner = min((each for each in counters if each is not epoch), key=lambda each: _WORDS.index(each[0]), default=None)
        self._own, self._named = bool(counters), any(named for *_, named in counters)
        if epoch is not None:
            state["first"] = min(epoch[1], state.get("first", 1.0))
            epochs = epoch[2] or (state.get("epoch") or [0.0, 0.0])[1]
            state["epoch"] = [epoch[1], epochs + (epoch[1] == epochs > state["first"] == 0)]
        if inner is not None and inner[0] != "part":
            others = state.setdefault("beside", [])
            words = [word for word, *_ in counters if word not in ("epoch", inner[0])]
            if inner[0] in others and not words:
                return state.get("step"), True  # where a line above has counted something better, too
            others += [word for word in words if word not in others]
            return self._counted(*inner)
        epoch = epoch or inner
        if epoch is None:
            self._label = self._label or state.get("heading", "")
            return state.get("step"), True
        main = next((each for each in state.get("counters", {}).values() if each["valued"] or inner), None)
        if main:  # `end of epoch 3`, or Hugging Face's Trainer, which draws a bar of steps beside its epochs
            main["valued"] = True
            state["reach"] = main["total"]
            return main["at"], True
        state["step"], state["reach"] = epoch[1:3]
        return epoch[1], True

    def _counters(self) -> List[Tuple[str, float, float, bool]]:
        """Of the line: the word, the number, of how many or 0, and whether the line has the word. They are cut out."""
        found: List[Tuple[str, float, float, bool]] = []

        def named(match: Match[str]) -> str:
            word, many, label, now, size = match.groups()
            word = re.sub("(?<!m)_", " ", word.lower())
            if word in ("epoch", "ep"):
                word = "part" if "." in now else "epoch"
            free = _BEFORE.search(text[max(0, match.start() - 20) : match.start()])
            if not free or many and word not in _PLURAL and not found or word == "batch" and not size and not found:
                return match[0]
            if label and _LABEL.match(label):
                self._label = _LABEL.match(label)[1].lower()  # type: ignore[index]
            found.append((word, _float(now), _float(size), True))
            return "|"

        def bare(match: Match[str]) -> str:
            now, size = _float(match[1]), _float(match[2])
            if size and now > size:
                return match[0]
            found.append(("batch", now, size, False))
            return "|"

        text = self._text
        pair, passed = _PLACE.match(text), _PASS.match(text)
        if pair:
            found += [("epoch", float(pair[1]), 0.0, True), ("batch", float(pair[2]), 0.0, True)]
            text = text[pair.end() :]
        elif passed:
            found.append(("epoch", float(passed[1]), 0.0, True))
            text = text[passed.end() :]
        text = _COUNTER.sub(named, text)
        text = _FRACTION.sub(bare, text)
        bars = [place for place, each in enumerate(found) if not each[3]]
        if len(bars) > 1 and not any(each[0] == "epoch" for each in found):
            found[bars[0]] = ("epoch", *found[bars[0]][1:3], True)
            found[bars[1]] = (*found[bars[1]][:3], True)
        first = None if found else _FIRST.match(text)
        if first:
            found.append(("step", float(first[1] or first[2]), 0.0, first[3] == "\t"))
            text = text[first.end() :]
        self._text = text
        return found

    def _counted(self, word: str, now: float, size: float, named: bool) -> Tuple[Optional[float], bool]:
        """The step of a counter that may begin anew in each epoch, and whether the line counts."""
        state = self._state
        if self._label not in ("", "train"):
            self._source = self._label
            state["heading"] = self._label
            self._drawn = bool(size)
            return now if named and word != "batch" and not size else state.get("step"), not size or now >= size
        state["heading"] = ""
        epoch, epochs = state.get("epoch") or (None, 0.0)
        counters = state.setdefault("counters", {})
        key = f"{word} {named}"
        self._source = f"{key} {self._label}"
        counter = self._counter = counters.get(key) or {}
        rose = bool(counter) and epoch != counter["epoch"]
        if counter and size and counter["size"] not in (0, size) and not (counter["valued"] and (rose or named)):
            if counter["valued"]:
                return None, False  # A second bar in one epoch is that of an evaluation.
            counter.clear()
        if not counter:
            ahead = epoch - state["first"] if epoch is not None else 0.0
            behind = bool(size) and now / size < 0.9 * ahead / max(epochs, epoch or 0.0, 1.0)
            counter.update(
                within=behind or None, base=ahead * size if behind else 0.0, stride=0.0, size=size, valued=False
            )
            counter.update(begins=epoch is not None, drawn=0.0)
            if len(counters) < MOST:
                counters[key] = counter
        elif now < counter["last"] or rose and now == counter["last"] and not self._drawn:
            last, full = counter["last"], counter["size"]
            done = bool(full) and last + counter["stride"] >= full
            if rose and counter["epoch"] is not None and epoch < counter["epoch"]:
                counter["base"] = (epoch - state["first"]) * full
            elif rose or epoch is None and done:
                counter["base"] += full or last + (counter["stride"] or now) - now
                counter["within"] = True
            elif done:
                return None, False
        elif rose and counter["within"] is None:
            counter["within"] = False
        if now > counter.get("last", now):
            counter["stride"] = now - counter["last"]
        counter.update(last=now, epoch=epoch, size=size or counter["size"], at=counter["base"] + now)
        step, size = counter["at"], counter["size"]
        counts_through = counter["within"] or counter["within"] is None and counter["begins"] and epochs
        counter["total"] = (size * epochs if counts_through else size) if size else None
        if counter["valued"] or not any(each["valued"] for each in counters.values()):
            state["step"], state["reach"] = step, counter["total"]
        if self._drawn and now != size and counter["drawn"] < step < counter["drawn"] + size / DRAWN:
            return None, False
        counter["drawn"] = step
        return step, True

    # -- what it says

    def _values(self, step: Optional[float]) -> Dict[str, float]:
        text = _MEASURE.sub("|", _BAR.sub("|", self._text)).replace("'s ", "/")  # LightGBM's `valid_0's l2`.
        rest = _PAIR.sub(" ", text)
        words = len(_WORD.findall(rest))
        if words > (MOST_WORDS if self._own else 3 if self._label else 1):
            return {}
        sure: Dict[str, float] = {}
        found: Dict[str, float] = {}
        twice = set()
        pairs = _PAIR.findall(text)
        for name, sign, value, more, part in pairs:
            close, sign, name = sign[-1:] == ":", sign.strip(), name.strip("._'")
            common = _COMMON.search(name)
            if more and not sign:
                return {}  # `loss 3 0.5`: it can't be told which of them is the loss
            if more or name.count("(") != name.count(")") or part and not common:
                continue
            ends = common and (" " not in name or not _WORD.search(name, common.end()))
            if _COST.search(name) and not (
                common and common.end() == len(name) and name.lower().endswith(("loss", "lr"))
            ):
                continue
            is_usual = _USUAL.search(name) and bool(sign or step is not None)
            spoken, name = name, name.replace(" ", "_")
            if name in found or name in sure:
                twice.add(name)
            value = _float(value) / (_float(part) if part[:1] == "/" else 1.0)
            if is_usual or ends and step is not None or common and sign and self._own:
                sure[name] = value
            elif sign and not close and (self._own or self._state.get("block") and self._raw[:2] == "  ") or self._own and not sign and words < len(pairs) - 3 and " " not in spoken:
                found[name] = value
        if not self._own or self._named or sure:
            sure.update(found)
        return {name: value for name, value in sure.items() if name not in twice}

    def _given(self, values: Dict[str, float], step: Optional[float]) -> List[Point]:
        found, at = [], self._state.setdefault("at", {})
        for name, value in values.items():
            source = at.get(name, [self._source])[0]
            if source and self._own and not self._source and self._label in ("", "train"):
                name = f"epoch/{name}"  # a summary of what has its own series
            elif self._label and not _OWN_LABEL.search(name):
                if self._label != "train" or not self._own or source != self._source:  # What has no word is training.
                    name = f"{self._label}/{name}"
            before = at.get(name)
            if (
                before
                and before[1] == step is not None
                and abs(before[2] - value) <= 0.01 * abs(value)
                and not self._drawn
            ):
                continue  # it is said twice
            again = step is not None and before and before[1] == step and not before[3]
            if name in at or len(at) < 4 * MOST:
                at[name] = [self._source, step, value, self._drawn]
            found.append(Point(name, value, None if again else step))
        if found and self._state.get("reach") is not None:
            self._state["total"] = self._state["reach"]  # 0 if nobody knows
        if found and self._counter:
            self._counter["valued"] = True
        return self._held(found, step)

    def _held(self, found: List[Point], step: Optional[float]) -> List[Point]:
        """What comes before the first step, as a validation before the training, is that step's, and so each time."""
        state = self._state
        held, early = state.setdefault("held", []), state.setdefault("early", [])
        if not self._own and len(held) < MOST:
            if "step" not in state and len(early) < OFTEN:
                early += [point.name for point in found]
            held += [point for point in found if point.name in early]
            return [point for point in found if point.name not in early]
        found = [Point(*each[:2], each[2] if step is None else step, *each[3:]) for each in held] + found
        held.clear()
        return found

    def _object(self) -> Optional[List[Point]]:
        """JSON, or what Python prints of a dictionary."""
        text = self._text[max(self._text.find("{", 0, 20), 0) :].strip()
        record = parse(text.encode()) if text[:1] == "{" else None
        if not isinstance(record, dict):
            return None
        record = {name: number(value) if isinstance(value, str) else value for name, value in record.items()}
        found = [each for each in points(record) if not _COST.search(each.name)]
        return [each if each.step is not None else each._replace(step=self._state.get("step")) for each in found]

    def _row_or_rule(self) -> Optional[List[Point]]:
        """Of a line that belongs to a table: its points. None: it is none."""
        state = self._state
        table = state.setdefault("table", {})
        text = self._text.strip()
        if _RULE.match(text):
            rows = table.pop("rows", None)
            table.pop("group", None)
            if not rows:
                return []
            step = next((rows[name] for name in rows if name.rpartition("/")[2] in STEPS), None)
            if step is None:
                return []
            state["step"], state["reach"] = step, 0.0
            self._own, self._label = True, ""
            named = {
                name: value
                for name, value in rows.items()
                if name.rpartition("/")[2] not in STEPS and not _COST.search(name)
            }
            return self._given(named, step)
        cells = (
            [cell for cell in _CELLS.split(text.strip("|").strip())]
            if "|" in text or "\t" in text or "  " in text
            else []
        )
        if text[:1] == text[-1:] == "|" and len(cells) == 2 and len(table.get("rows", ())) < MOST:
            value = number(cells[1])
            if cells[1] == "":
                table["group"] = cells[0].rstrip("/") + "/"
            elif value is not None:
                table.setdefault("rows", {})[table.get("group", "") + cells[0]] = value
            return []
        heads = [cell.lower() for cell in cells]
        step = min((head for head in heads if head in _HEADS), key=_HEADS.__getitem__, default=None)
        if step is not None and len(cells) > 2 and not any(_NUMBER.match(cell) for cell in cells):
            table["heads"], table["step"] = cells, heads.index(step)
            return []
        heads = table.get("heads", [])
        row = cells
        if heads and len(row) != len(heads):
            row = [cell for cell in _GAUGE.sub("", text).split() if cell != "|"]
        if not heads or len(row) != len(heads) or self._redrawn:
            return None
        place = re.match(rf"({_INT})(?:/({_INT}))?$", row[table["step"]])
        if not place:
            return None
        self._own, self._label = True, ""
        state["step"], state["reach"] = _float(place[1]), _float(place[2])
        named = {head.replace(" ", "_"): number(cell.rstrip("%")) for head, cell in zip(heads, row)}  # noqa: B905
        return self._given(
            {
                name: value
                for name, value in named.items()
                if value is not None and name.lower() not in _HEADS and not _COST.search(name)
            },
            state["step"],
        )

    def _unread(self, text: str) -> None:
        numbers = len(_NUMBER.findall(text))
        forms = self._state.setdefault("forms", {})
        form = _NUMBER.sub("#", text)[:80]
        if numbers > 1 and (form in forms or len(forms) < MOST):
            forms[form] = forms.get(form, 0) + 1
            if forms[form] >= OFTEN:
                self._state["unread"] = max(numbers, self._state.get("unread", 0))


def _message(text: str) -> str:
    """A line without what a logger puts before it."""
    at, any = 0, False
    while True:
        match = _LOGGER.match(text, at) or (any and _CHANNEL.match(text, at) or None)
        if not match or match.re is _CHANNEL and _LABEL.fullmatch(match[1]):
            return text[at:]
        at, any = match.end(), True


def _float(text: Optional[str]) -> float:
    return number((text or "").replace(",", "").strip("/")) or 0.0
