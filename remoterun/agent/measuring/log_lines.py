"""The log: what programs print for people. Each line is told what it is, by its structure, and not by who printed it.

1. What a logger puts before a message is cut off: dates, levels, `train.py:50]`, `__main__:train:42 -`, `[rank0]:`.
2. Counters: `step 120/3000`, `Epoch: [3][ 10/5005]`, `[0/25][100/1583]`, tqdm's and Keras' bars. What falls as an
   epoch begins is a count within the epoch, and is counted through: batch 5 of 100 in epoch 2 is step 105; where a log
   does not say how many there are, the count goes on by the distance of its lines. What falls without an epoch was
   restarted. A second bar within one epoch, and one that says `Test`, is an evaluation's: its last state counts, at
   the step of the training. An epoch alone is the step, unless steps are counted beside it.
3. Pairs: `loss: 0.5`, `D loss 0.5`, `'loss': 0.5`, `accuracy=97%`. They count if the line has a counter, or, as `val
   loss 3.85` on a line of its own, if one above has; without any, at no step, if they are a usual metric: `port: 8000`
   is none. Nor is what says how long or how much a step took: `time`, `eta`, `mem`, and each number with a unit.
4. A line, or a heading, that begins with `val` or `Test` gives its metrics that name: `test/Accuracy`.
5. Tables: a row has as many cells as the header above it, of which one names the step; or, between two rules, each row
   has a name and a number. JSON in a line is read as in a file.

Numbers are never laid over each other: of two of one name in one line neither counts, and of two at one step the later
has no step. `state` has what the lines before have said; `unread`: how many numbers those lines have that come again
and again, but of which nothing was understood. `metric_step` and `metric_hide` are what the user knows better.

In the user's regular expressions each named group is a metric, but `step` and `epoch` are the step.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Match, Optional, Tuple

from . import Point
from . import log_words as log
from .lines import STEPS, number, parse, points, split
from .log_words import message, to_float

LONGEST = 2000  # Bytes of a line; a longer one is skipped.
DRAWN = 200  # States that count of a bar that is drawn again and again, beside its last one.
MOST = 64  # Counters, rows of a table, forms of lines that are held.
OFTEN = 5  # Lines of one form, from which on it is said that their numbers are not understood.
PROSE = 6  # Words that a line may have beside its counters and pairs, or it is a sentence.


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    found: List[Point] = []
    marked = data.replace(b"\r\n", b" \n").replace(b"\r", b"\r\n").replace(b"\b", b" ")
    whole, consumed = split(marked, state, LONGEST)
    consumed -= marked.count(b"\r\n", 0, consumed)
    for text in (log.ESCAPE.sub("", line.decode("utf-8", "replace")) for line in whole):
        found += _Line(text.rstrip("\r"), text.endswith("\r"), state).points()
    if state.get("ended"):
        found += [Point(name, value, state.get("step")) for name, value in state.pop("held", ())]
    return found, consumed


class _Counter:
    """Something that is counted, such as batches, which may begin anew in each epoch. It is kept in `state`, as JSON.

    `size`: of how many, or 0; `base`: how many the epochs before had; `stride`: from one line to the next; `within`:
    whether it is counted within an epoch, if that is known; `valued`: whether its lines have metrics.
    """

    last, size, base, stride, drawn = -1.0, 0.0, 0.0, 0.0, 0.0
    epoch: Optional[float] = None
    within: Optional[bool] = None
    begins = valued = False

    def __init__(self, state: Dict[str, Any]) -> None:
        self.__dict__ = state

    def count(self, now: float, size: float, epoch: Optional[float], first: float, epochs: float, drawn: bool) -> bool:
        """Take in what a line says; whether it counts. `drawn`: it is drawn again and again."""
        rose = epoch != self.epoch and self.last >= 0
        done = bool(self.size) and self.last + self.stride >= self.size
        if self.last < 0:
            ahead = epoch - first if epoch is not None else 0.0
            if size and now / size < 0.9 * ahead / max(epochs, epoch or 0.0, 1.0):
                self.within, self.base = True, ahead * size  # It goes on from a checkpoint.
            self.begins = epoch is not None
        elif now < self.last or rose and now == self.last and not drawn:
            if rose and self.epoch is not None and epoch is not None and epoch < self.epoch:
                self.base = (epoch - first) * self.size
            elif rose or epoch is None and done:
                self.base += self.size or self.last + (self.stride or now) - now
                self.within = True
            elif done:
                return False
        elif rose and self.within is None:
            self.within = False
        if now > self.last >= 0:
            self.stride = now - self.last
        self.last, self.epoch, self.size = now, epoch, size or self.size
        return True

    @property
    def at(self) -> float:
        return self.base + self.last

    def total(self, epochs: float) -> Optional[float]:
        """Steps of the whole run; 0 where it can't be known, None where the counter says nothing of it."""
        each = self.within or self.within is None and self.begins and epochs
        return (self.size * epochs if each else self.size) if self.size else None


class _Line:
    def __init__(self, text: str, redrawn: bool, state: Dict[str, Any]) -> None:
        self._raw, self._text, self._state = text, message(text), state
        self._redrawn, self._drawn = redrawn, redrawn or "%|" in text  # A later state may take its place.
        self._own = self._named = False  # Whether the line itself says where the run is, and by a word.
        self._source = ""  # What counted its step.
        self._counter: Optional[_Counter] = None
        label = log.LABEL.match(self._text)
        self._label = label[1].lower() if label else ""

    def points(self) -> List[Point]:
        state, text = self._state, self._text
        patterns = [re.search(pattern, self._raw) for pattern in state.get("metrics", ())]
        values = {name: value for match in patterns if match for name, value in match.groupdict().items() if value}
        if values:
            numbers = {name: number(value) for name, value in values.items()}
            return list(points(numbers if "epoch" in numbers else {"step": self._place()[0], **numbers}))
        if not log.NUMBER.search(self._raw):
            if self._label and self._label != "train":
                state["heading"] = self._label
            return self._table() or []
        known = self._object()
        known = self._table() if known is None else known
        if known is not None or log.FILES.match(text):
            return known or []
        step, counts = self._place()
        found = self._given(self._values(step), step) if counts else []
        if self._own:
            state["block"] = counts and not found
        if not found:
            self._unread(text)
        return found

    # -- where the run is

    def _place(self) -> Tuple[Optional[float], bool]:
        """The step, and whether the line counts."""
        state, counters = self._state, self._counters()
        before = (state.get("epoch") or [0.0])[0]
        name = state.get("metric_step")
        if name:  # The user knows better.
            step = re.search(
                rf"(?<!\w){re.escape(name)}['\"]?\s{{0,3}}[:=]?\s{{0,9}}([0-9,]{{1,20}}\.?[0-9]*)", self._raw
            )
            self._own = self._named = bool(step)
            state["step"] = to_float(step[1].rstrip(",")) if step else state.get("step")
            return state["step"], True
        epoch = next((each for each in counters if each[0] == "epoch"), None)
        others = [each for each in counters if each is not epoch]
        inner = min(others, key=lambda each: log.WORDS.index(each[0]), default=None)
        self._own, self._named = bool(counters), any(named for *_, named in counters)
        if epoch is not None:
            epochs = epoch[2] or (state.get("epoch") or [0.0, 0.0])[1]
            state["first"] = min(epoch[1], state.get("first", 1.0))
            state["epoch"] = [epoch[1], epochs + (epoch[1] == epochs > state["first"] == 0)]
        if inner is not None and inner[0] != "part":
            beside = state.setdefault("beside", [])
            words = [word for word, *_ in others if word != inner[0]]
            if inner[0] in beside and not words:
                return state.get("step"), True  # Another line counts something better, too.
            beside += [word for word in words if word not in beside]
            return self._counted(*inner)
        epoch = epoch or inner
        if epoch is None:
            self._label = self._label or state.get("heading", "")
            return state.get("step"), True
        for counter in map(_Counter, state.get("counters", {}).values()):
            if counter.valued or inner:  # `end of epoch 3`, or Hugging Face's Trainer, which draws a bar of its steps.
                counter.valued = True
                state["total of"] = counter.total(0.0)
                return counter.at, True
        state["anew"] = state.get("anew") or epoch[1] == state.get("first") < before  # As of folds.
        state["step"], state["total of"] = None if state["anew"] else epoch[1], epoch[2]
        return state["step"], True

    def _counters(self) -> List[Tuple[str, float, float, bool]]:
        """Of the line: the word, the number, of how many or 0, and whether it is named. The text is left without."""
        found: List[Tuple[str, float, float, bool]] = []

        def named(match: Match[str]) -> str:
            word, many, label, now, size = match.groups()
            word = word.lower().replace("_", " ")
            before = log.BEFORE_COUNTER.search(text[max(0, match.start() - 20) : match.start()])
            in_all, unsized = many and word not in log.PLURAL, word in ("batch", "i") and not size
            if not before or (in_all or unsized) and not found:
                return match[0]
            if word in ("epoch", "ep"):
                word = "part" if "." in now else "epoch"
            label = log.LABEL.match(label or "")
            self._label = label[1].lower() if label else self._label
            found.append((word, to_float(now), to_float(size), True))
            return "|"

        def bare(match: Match[str]) -> str:
            now, size = to_float(match[1]), to_float(match[2])
            if size and now > size:
                return match[0]
            found.append(("batch", now, size, False))
            return "|"

        text = self._text
        pair, passed = log.PLACE.match(text), log.PASS.match(text)
        if pair:
            found += [("epoch", float(pair[1]), 0.0, True), ("batch", float(pair[2]), 0.0, True)]
        elif passed:
            found.append(("epoch", float(passed[1]), 0.0, True))
        cut = pair or passed
        text = text[cut.end() if cut else 0 :]
        text = log.FRACTION.sub(bare, log.COUNTER.sub(named, text))
        bars = [place for place, each in enumerate(found) if not each[3]]
        if len(bars) > 1 and not any(each[0] == "epoch" for each in found):
            found[bars[0]] = ("epoch", *found[bars[0]][1:3], True)
            found[bars[1]] = (*found[bars[1]][:3], True)
        first = None if found else log.FIRST.match(text)
        if first:
            found.append(("step", float(first[1] or first[2]), 0.0, first[3] == "\t"))
            text = text[first.end() :]
        self._text = text
        return found

    def _counted(self, word: str, now: float, size: float, named: bool) -> Tuple[Optional[float], bool]:
        """The step of a counter, and whether the line counts."""
        state, key = self._state, f"{word} {named}"
        state["heading"] = "" if self._label == "train" else self._label
        self._source = f"{key} {self._label}"
        if state["heading"]:
            self._drawn = bool(size)
            return now if named and word != "batch" and not size else state.get("step"), not size or now >= size
        counters = state.setdefault("counters", {})
        if key not in counters and len(counters) >= MOST:
            return None, False
        counter = self._counter = _Counter(counters.setdefault(key, {}))
        epoch, epochs = state.get("epoch") or (None, 0.0)
        if size and counter.size not in (0, size) and not (counter.valued and (named or epoch != counter.epoch)):
            if counter.valued:
                return None, False  # A second bar in one epoch is that of an evaluation.
            counter.__dict__.clear()
        if not counter.count(now, size, epoch, state.get("first", 1.0), epochs, self._drawn):
            return None, False
        if counter.valued or not any(each.get("valued") for each in counters.values()):
            state["step"], state["total of"] = counter.at, counter.total(epochs)
        if self._redrawn and now != counter.size and 0 < counter.at - counter.drawn < counter.size / DRAWN:
            return None, False
        counter.drawn = counter.at
        return counter.at, True

    # -- what it says

    def _values(self, step: Optional[float]) -> Dict[str, float]:
        text = log.MEASURE.sub("|", log.BAR.sub("|", self._text)).replace("'s ", "/")  # LightGBM's `valid_0's l2`.
        pairs, state = log.PAIR.findall(text), self._state
        prose = len(log.WORD.findall(log.PAIR.sub(" ", text)))
        if prose > (PROSE if self._own else 3 if self._label else 1):
            return {}
        sure: Dict[str, float] = {}
        found: Dict[str, float] = {}
        twice = set()
        may_be_new = self._own or state.get("block") and self._raw[:2] == "  "  # As one can't know them all.
        bare = self._own and prose < len(pairs) - 3  # Many names and numbers, and little else, as of StyleGAN.
        for spoken, between, digits, more, part in pairs:
            sign, spoken = between.strip(), spoken.strip("._'")
            name = spoken.replace(" ", "_")
            common = log.COMMON.search(spoken)
            at_end = common and (" " not in spoken or not log.WORD.search(spoken, common.end()))
            if more and not sign:
                return {}  # `loss 3 0.5`: which of them is the loss?
            if more or spoken.count("(") != spoken.count(")") or part and not common:
                continue
            if log.COST.search(spoken) and not spoken.lower().endswith(("loss", "lr")):
                continue
            if name in found or name in sure:
                twice.add(name)
            value = to_float(digits) / (to_float(part) if "/" in part else 1.0)
            is_usual = log.USUAL.search(spoken) and (sign or step is not None)
            is_common = at_end and step is not None and (self._own or len(pairs) < 2)
            if is_usual or is_common or common and sign and self._own:
                sure[name] = value
            elif (between[-1:] != ":" and may_be_new) if sign else bare and " " not in spoken:
                found[name] = value
        if not self._own or self._named or sure or "%|" in self._raw and len(found) > 1:
            sure.update(found)
        no_metrics = {*twice, state.get("metric_step")}
        return {name: value for name, value in sure.items() if name not in no_metrics}

    def _given(self, values: Dict[str, float], step: Optional[float]) -> List[Point]:
        """The points, by their full names."""
        state, found = self._state, []
        seen = state.setdefault("seen", {})  # By the name: its source, its last step and value, whether that is drawn.
        for name, value in values.items():
            source = seen.get(name, [self._source])[0]
            if source and self._own and not self._source and self._label in ("", "train"):
                name = f"epoch/{name}"  # A summary of what has its own series.
            elif self._label and not log.OWN_LABEL.search(name):
                is_usual = self._label == "train" and self._own and source == self._source
                name = name if is_usual else f"{self._label}/{name}"
            _, at, before, drawn = seen.get(name, ["", None, 0.0, True])
            again = step is not None and at == step and not drawn
            if again and abs(before - value) <= 0.01 * abs(value):
                continue  # It is said twice.
            if name in seen or len(seen) < 4 * MOST:
                seen[name] = [self._source, step, value, self._drawn]
            if name not in state.get("metric_hide", ()):
                found.append(Point(name, value, None if again else step))
        if found and state.get("total of") is not None:
            state["total"] = state["total of"]
        if found and self._counter:
            self._counter.valued = True
        return self._held(found, step)

    def _held(self, found: List[Point], step: Optional[float]) -> List[Point]:
        """The points that count now. Those before the first step, as of a validation before the training, wait for it;
        those of the same names do so each time."""
        held, early = self._state.setdefault("held", []), self._state.setdefault("early", [])
        if not self._own and "step" not in self._state and len(held) < OFTEN:
            early += [point.name for point in found]
        elif not self._own and "step" not in self._state:
            early.clear()  # No step seems to come.
        if not self._own and early and len(held) < MOST:
            held += [[point.name, point.value] for point in found if point.name in early]
            return [point for point in found if point.name not in early]
        found = [Point(name, value, step) for name, value in held] + found
        held.clear()
        return found

    def _object(self) -> Optional[List[Point]]:
        text = self._text[max(self._text.find("{", 0, 20), 0) :].strip()
        record = parse(text.encode()) if text[:1] == "{" else None
        if not isinstance(record, dict):
            return None
        record = {name: number(value) if isinstance(value, str) else value for name, value in record.items()}
        found = [each for each in points(record) if not log.COST.search(each.name)]
        return [each if each.step is not None else each._replace(step=self._state.get("step")) for each in found]

    def _table(self) -> Optional[List[Point]]:
        """Of a line that belongs to a table: its points. None: it is none."""
        text, table = self._text.strip(), self._state.setdefault("table", {})
        cells = log.CELLS.split(text.strip("|").strip()) if "|" in text or "\t" in text or "  " in text else []
        if log.RULE.match(text):
            rows = table.pop("rows", {})
            table.pop("group", None)
            step = next((rows[name] for name in rows if name.rpartition("/")[2] in STEPS), None)
            return self._row(rows, step, 0.0) if step is not None else []
        if text[:1] == text[-1:] == "|" and len(cells) == 2 and len(table.get("rows", ())) < MOST:
            value = number(cells[1])
            if not cells[1]:
                table["group"] = cells[0].rstrip("/") + "/"
            elif value is not None:
                table.setdefault("rows", {})[table.get("group", "") + cells[0]] = value
            return []
        names = [cell.lower() for cell in cells]
        step_name = min((name for name in names if name in log.HEADS), key=log.HEADS.__getitem__, default=None)
        if step_name and len(cells) > 2 and not any(log.NUMBER.match(cell) for cell in cells):
            table.update(heads=cells, step=names.index(step_name))
            return []
        heads = table.get("heads", [])
        if heads and len(cells) != len(heads):
            cells = [cell for cell in log.GAUGE.sub("", text).split() if cell != "|"]
        if not heads or len(cells) != len(heads) or self._redrawn:
            return None
        place = re.match(r"([0-9]{1,15})(?:/([0-9]{1,15}))?$", cells[table["step"]])
        row = {head.replace(" ", "_"): number(cell.rstrip("%")) for head, cell in zip(heads, cells)}  # noqa: B905
        return self._row(row, float(place[1]), to_float(place[2])) if place else None

    def _row(self, row: Dict[str, Optional[float]], step: float, total: float) -> List[Point]:
        self._own, self._label = True, ""
        self._state["step"], self._state["total of"] = step, total
        values = {name: value for name, value in row.items() if value is not None and not log.COST.search(name)}
        steps = [name for name in values if name.lower().rpartition("/")[2] in (*STEPS, *log.HEADS)]
        return self._given({name: values[name] for name in values if name not in steps}, step)

    def _unread(self, text: str) -> None:
        numbers, forms = len(log.NUMBER.findall(text)), self._state.setdefault("forms", {})
        form = log.NUMBER.sub("#", text)[:80]
        if numbers > 1 and (form in forms or len(forms) < MOST):
            forms[form] = forms.get(form, 0) + 1
            if forms[form] >= OFTEN:
                self._state["unread"] = max(numbers, self._state.get("unread", 0))
