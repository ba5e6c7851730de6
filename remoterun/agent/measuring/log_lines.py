"""The log: what programs print for people, such as `step 120/3000 loss 1.23`, Keras' bars and tqdm's.

A number counts where its line says a step or an epoch, or its name is that of a usual metric: `port: 8000` is none.
Bars that begin anew in each epoch are counted through: the 5th of 100 batches in epoch 2 is step 105. In the user's
regular expressions each named group is a metric, but `step` and `epoch` are the step.
"""

from __future__ import annotations

import re
from typing import Any, Dict, List, Match, Optional, Tuple

from . import Point
from .lines import STEPS, number, points, split

LONGEST = 2000  # Bytes of a line; a longer one is skipped.
DRAWN = 200  # States that count of a bar that is drawn again and again, beside its last one.
_LINES = bytes.maketrans(b"\r\b", b"\n ")
_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_PAIR = re.compile(
    r"(?<![\w./@-])((?:(?:train|training|val|valid|validation|test|eval|evaluation|avg|average|mean|total"
    r"|learning|grad|lm) ){0,2}[a-z_][\w./@-]{0,99})(['\"]?\s{0,3}[:=]\s{0,3}['\"]?|\s{1,3})"
    r"([-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?|nan|inf(?:inity)?))(?![\w:/]|[.,-][0-9])",
    re.I,
)
_KNOWN = re.compile(r"(^|[\W_])(loss|acc|accuracy|perplexity|ppl|bpc|mae|[rm]?mse|wer|cer|auc|f1|bleu|reward)$", re.I)
"""Metrics that need no step beside them."""
_STEP = re.compile(
    r"(?<![\w/.-])(?:global[ _])?(step|iter|iteration|episode|epoch|batch(?=\W{1,4}[0-9]{1,15} ?/))"
    r"['\"]?\s{0,3}[:=#]?\s{0,3}['\"]?[\[(]?\s{0,9}"
    r"([0-9]{1,15}(?:\.[0-9]{1,15})?)(?!\w)(?: ?(?:/|of) ?([0-9]{1,15}))?",
    re.I,
)
_ROUND = re.compile(r"(?:\[([0-9]{1,15})\]|([0-9]{1,15}):)\t")  # XGBoost, LightGBM, CatBoost.
_BAR = re.compile(r"(?:^|[\[|])\s{0,9}([0-9]{1,15})/([0-9]{1,15}|Unknown)(?![\w/.])")
Place = Tuple[Optional[float], float, bool]  # Of a line: its step, that of how many or 0, and whether it is named.


def read(data: bytes, state: Dict[str, Any]) -> Tuple[List[Point], int]:
    found: List[Point] = []
    whole, consumed = split(data.translate(_LINES), state, LONGEST)
    for text in (_ESCAPE.sub("", line.decode("utf-8", "replace")) for line in whole):
        place = _place(text, state)
        matches = [re.search(pattern, text) for pattern in state.get("patterns", ())]
        values = {name: value for match in matches if match for name, value in match.groupdict().items() if value}
        values = values or (_values(text, place) if place else {})
        step, total, _ = place or (None, 0.0, False)
        if values and total:
            state["total"] = total
        numbers = {name: number(value) for name, value in values.items()}
        found += points(numbers if "epoch" in numbers else {"step": step, **numbers})
    return found, consumed


def _values(text: str, place: Place) -> Dict[str, Any]:
    step, _, named = place
    text = text.replace("'s ", "/")  # LightGBM's `valid_0's l2`.
    pairs = [(name.replace(" ", "_"), value, sign.strip()) for name, sign, value in _PAIR.findall(text)]
    known = {name: value for name, value, sign in pairs if _KNOWN.search(name) and (sign or step is not None)}
    if step is None or not named and not known:
        return known
    others = {name: value for name, value, sign in pairs if sign and name.lower().rpartition("_")[2] not in STEPS}
    return {**others, **known}


def _place(text: str, state: Dict[str, Any]) -> Optional[Place]:
    """None: the line does not count."""
    boosted = _ROUND.match(text)
    if boosted:
        return float(boosted[1] or boosted[2]), 0.0, True
    words = {match[1][:3].lower(): match for match in _STEP.finditer(text)}
    epoch, bar = words.pop("epo", None), _BAR.search(text)
    if epoch and "{" not in text and (not bar or epoch.start() < bar.start()):
        state["base"] = min(float(epoch[2]), state.get("base", 1.0))
        state["epoch"] = [float(epoch[2]) - state["base"], float(epoch[3] or 0)]
        state.pop("bar", None)
    for step in words.values():
        size = float(step[3] or 0)
        before, epochs = (epoch and epoch[3] and size and state.get("epoch")) or (0.0, 1.0)
        return before * size + float(step[2]), epochs * size, True
    if bar:
        return _counted(bar, state)
    if epoch and "." in epoch[2] and "bar" in state:  # Hugging Face's Trainer, which draws a bar of steps beside it.
        state["main"] = state["bar"][1] if "'loss'" in text else state.get("main", state["bar"][1])
        return state["bar"][0], state["bar"][1], True
    return (float(epoch[2]), float(epoch[3] or 0), True) if epoch else (None, 0.0, False)


def _counted(bar: Match[str], state: Dict[str, Any]) -> Optional[Place]:
    now, size = float(bar[1]), float(bar[2]) if bar[2] != "Unknown" else 0.0
    last, last_size = state.get("bar", (0.0, 0.0))
    if state.get("epoch") and (now < last or last_size not in (0.0, size)):
        state["epoch"] = []  # A second bar in one epoch is that of an evaluation.
    before, epochs = state.get("epoch", (0.0, 1.0)) or (-1.0, 0.0)
    if before < 0 or before and not size or state.get("main", size) != size:
        return None
    state["bar"] = [now, size]
    step, drawn = before * size + now, state.get("drawn", 0.0)
    if now != size and drawn < step < drawn + size / DRAWN:
        return None
    state["drawn"] = step
    return step, epochs * size, False
