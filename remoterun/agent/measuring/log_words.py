"""The parts of lines of logs, as regular expressions, whose time grows no faster than the line."""

from __future__ import annotations

import re
from typing import Optional

from .lines import number

ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_INT = r"[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9])|[0-9]{1,15}"
_CLOCK = r"[0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]{1,9})?)?"

# -- before a message
_LOGGER = re.compile(
    r"[\s\[(|:,>-]{0,9}(?:"
    rf"(?:[0-9]{{4}}[-/.])?[0-9]{{2}}[-/.][0-9]{{2}}(?:[-/.][0-9]{{2,4}})?[T\s,_-]{{1,3}}{_CLOCK}[\w+:.-]{{0,9}}"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}(?=[\s\]])|[0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]{1,9})?(?=[\s\]])"
    rf"|[IWEF][0-9]{{4}} {_CLOCK}\s{{1,9}}[0-9]{{1,20}}"
    r"|(?:time|ts|level|msg|caller)=(?:\"[^\"]{0,200}\"|\S{1,99})"
    r"|(?:TRACE|DEBUG|INFO|NOTICE|SUCCESS|WARN(?:ING)?|ERROR|CRITICAL)(?![\w=])(?::[\w.]{1,99}:)?"
    r"|[\w./<>-]{1,99}\.(?:py|cc|cpp|cu):[0-9]{1,6}(?::\w{1,99})?|[\w.<>]{1,99}:[\w<>]{1,99}:[0-9]{1,6}(?=\s-)"
    r"|\[?[Rr]ank[\s:]?[0-9]{1,6}(?=\]))[\s\])|:,>-]{0,9}"
)
"""A date, a level, a line of a source file, a rank."""
_CHANNEL = re.compile(r"[\[(|]?([A-Za-z_][\w.]{0,99})(?:\s-\s|\s\|\s|\]:?(?=[\s\[]))\s{0,9}")
LABEL = re.compile(
    r"\W{0,9}(train|val|valid|test|eval)(?:ing|uation|idation|ation|idating|idate)?(?=[\s:\[(|>]|$)", re.I
)
OWN_LABEL = re.compile(r"(?:^|[\W_])(train|val|test|eval|dev)", re.I)
FILES = re.compile(r"\W{0,9}(?:sav|load|writ|wrot|restor|resum|creat|download)\w{0,9}\b", re.I)
"""How a line begins that says what was done with files."""

# -- counters
_WORDS = (
    "kimg|num updates|global step|total timestep|step|timestep|learning iteration|iteration|iter|itr|update|round|tick"
    "|minibatch|batch|episode|generation|i|part|epoch|ep"
)
WORDS = _WORDS.split("|")
"""The words of counters: those first that say most of how far a run is; `part` is of an epoch: 0.25."""
PLURAL = ("num updates", "step", "timestep", "total timestep", "update", "episode")
"""Words that may be plural: `steps: 10` is where a run is, and `epochs: 10` how many there are in all."""
COUNTER = re.compile(
    rf"(?<![\w/.@-])({_WORDS.replace(' ', '[ _]')})(s?)(?:\((\w{{1,20}})\))?['\"]?"
    r"(?:\s{0,3}[:=#]\s{0,3}|\s{1,9}|(?=[\[(]))['\"]?[\[(]?\s{0,9}(?:[0-9]{1,15}-)?"
    rf"((?:{_INT})(?:\.[0-9]{{1,15}})?)(?![\w%]|[.:-][0-9])(?:\s?(?:/|of)\s{{0,9}}({_INT})(?![\w%.]))?[\])]?",
    re.I,
)
"""Its word, `s`, a label, where it is, and of how many."""
BEFORE_COUNTER = re.compile(
    r"(?:^\s*|(?<!\w)[^a-z\s]\s?|[^a-z\s(]\s?|\s\s|\b(?:at|of|end|start|starting|begin|train|training|val|validation"
    r"|valid|test|eval|current|finished|after|for|in|global) )$",
    re.I,
)
FRACTION = re.compile(
    rf"(?:^|[\[(|])[:,]?\s{{0,9}}({_INT})\s{{0,3}}/\s{{0,9}}({_INT}|Unknown)(?![\w/.])"
    r"(?:\s?\(\s{0,3}[0-9]{1,3}%\))?[\])]?"
)
PLACE = re.compile(r"\[([0-9]{1,15}),\s{1,9}([0-9]{1,15})\]")
"""Epoch and batch, as in PyTorch's tutorials."""
PASS = re.compile(r"(?:train|test|valid|val|eval)\w{0,9}: ?([0-9]{1,15}) (?=\[)", re.I)
"""An epoch, as in timm."""
FIRST = re.compile(r"\s{0,9}(?:\[([0-9]{1,15})(?: \| [0-9.]{1,15})?\]|([0-9]{1,15}):?)(\t| {1,3}(?=\[)|(?<=\]) )")
"""A step without a word, such as XGBoost's `[10]` and CatBoost's `10:`."""

# -- pairs
_VALUE = (
    r"[-+]?(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,4}(?![0-9,])|[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[-+]?[0-9]+)?"
    r"|nan|inf(?:inity)?)"
)
PAIR = re.compile(
    r"(?<![\w./@=-])((?:[a-z_][\w./@()'-]{0,40} ){0,3}[a-z_][\w./@()'-]{0,99}?)(?: \(\w{1,12}\))?"
    rf"(['\"]?\s{{0,3}}(?:=|:(?=\s)|:)\s{{0,9}}(?:['\"]|\[(?=[^\s,]{{1,30}}\]))?|\s{{1,9}})"
    rf"({_VALUE})(?!\w|:(?!\s{{1,3}}\|)|[.,-][0-9]|/[a-z])"
    r"(\s(?:->|[-+]?[0-9.]{1,20}(?![\w%])))?(\s{0,3}%|\s?/\s?[0-9]{1,15}(?![.0-9]))?",
    re.I,
)
"""Name, sign, value; another number right after it; a percent sign, or of how many."""
MEASURE = re.compile(
    rf"{_VALUE}\s?(?:[kmun]?s|secs?|seconds?|m|mins?|minutes?|h|hours?|[kmgt]i?b?|it|tok|tokens|imgs?|images|samples"
    r"|steps|examples)(?:/\w{1,9})?(?!\w|\.\w|\s?[=:])",
    re.I,
)
"""A number with its unit, which is no metric."""
BAR = re.compile(r"[0-9]{1,3}%\|[^|]{0,300}\||\[?[0-9?:]{1,12}<[0-9?:, ]{1,20}|\b[0-9]{1,3}:[0-9]{2}(?::[0-9]{2})?\b")
"""A bar that is drawn, or a time."""
WORD = re.compile(r"[a-z_]{2,}", re.I)
NUMBER = re.compile(r"(?<![\w.])[-+]?[0-9][0-9.,]{0,20}(?:e[-+]?[0-9]{1,3})?(?!\w)|\b(?:nan|inf)\b", re.I)
_METRIC = (
    r"loss|acc|accuracy|perplexity|ppl|bpc|mae|[rm]?mse|rmsle|logloss|wer|cer|auc|f1|bleu|rouge\w?|reward|fid\w{0,9}"
    r"|inertia"
)
USUAL = re.compile(rf"(?:^|[\W_])(?:{_METRIC})$", re.I)
"""Metrics that need no step beside them."""
COMMON = re.compile(
    rf"(?:^|[\W_])(?:{_METRIC}|\w{{0,9}}loss|top[_-]?[15]|acc[_-]?[15]|lr|learning[ _]rate|(?:grad|g)?_?norm|kl\w*"
    r"|score|return|nll|entropy|error|precision|recall|psnr|ssim|lpips|m?iou|m?ap(?:50)?|dice)(?![a-z])",
    re.I,
)
"""Metrics that need no sign after their name, beside a step."""
COST = re.compile(
    r"(?:^|[\W_])(?:\w*time|secs?|seconds?|ms|eta|elapsed|remaining|took|taken|duration|runtime|speed|throughput|fps"
    r"|[stuw]ps|wpb|bsz|wall|clock|mfu|t?flops|memory|\w*mem|[gc]pu|v?ram|gb|gb_free|size|data|port|pid|rank|seed|version"
    r"|v_num|num|number|count|samples|tokens?|tok|workers|skipped|sents|instances|images|imgsz|maintenance|reserved"
    r"|\w*persec|iters?|iterations?|batch(?:es)?|epochs?|steps?|params|parameters|best|progress|per_second|world|width"
    r"|height|date|total|folds?|jobs?)(?:$|[\W_])",
    re.I,
)
"""Words of names that say what a step costs, or how a run is set, and not how good it is."""

# -- tables
RULE = re.compile(r"[\s|+=_*#-]{5,}$")
CELLS = re.compile(r"\s{0,99}[|\t]\s{0,99}|\s{2,99}")
HEADS = {"#": 0, "step": 1, "iter": 2, "iteration": 3, "round": 4, "epoch": 5, "e": 6}
"""Heads of the column with the step, the best first."""
GAUGE = re.compile(r":?\s{0,9}[0-9]{1,3}%\|.*")


def message(text: str) -> str:
    """A line without what a logger puts before it."""
    at = 0
    while True:
        match = _LOGGER.match(text, at) or (_CHANNEL.match(text, at) if at else None)
        if not match or match.re is _CHANNEL and LABEL.fullmatch(match[1]):
            return text[at:]
        at = match.end()


def to_float(text: Optional[str]) -> float:
    """The number that was matched; 0 where there is none."""
    return number((text or "").replace(",", "").strip("/ ")) or 0.0
