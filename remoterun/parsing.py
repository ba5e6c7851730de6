"""Values as users type them, after options and in files of settings: durations, numbers of GPUs, ports, variables."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from remoterun.agent.shared.spec import PortSpec
from remoterun.agent.shared.tree import show
from remoterun.errors import UsageError
from remoterun.model import ALL_GPUS, Mount, Resource, check_upload_name

UNKNOWN = math.inf  # agreed to as the price of an hour: one that is not known
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""The name of an environment variable, or of a secret."""
RANGE = 10_000
"""Numbers in a range of runs, at the most: a longer one is a slip of the keyboard."""
_REQUIREMENT = re.compile(
    r"""\s* [A-Za-z0-9][A-Za-z0-9._-]* \s* (?:\[[^]]*\])? \s*
    (?: [@(].* | VERSION (?:\s*,\s* VERSION)* (?:\s*,)? )? \s* (?:[;\#-].*)?""".replace(
        "VERSION", r"(?:===|[=~!<>]=|[<>]) \s* [^,;\s]*"
    ),
    re.VERBOSE | re.DOTALL,
)
"""A package for pip: its name, extras, versions or address, marker, and options of a requirements file. It lets through
more than pip does."""


def command_text(words: Sequence[str]) -> str:
    """The command as text for `sh -c`: one word is taken as it is, several keep their borders."""
    return words[0] if len(words) == 1 else shlex.join(words)


def toml(text: str) -> dict[str, Any]:
    """What a file of settings says. Raises `ValueError`, in words, also for one that is made to take an hour."""
    import tomllib

    if any(part.count(".") > 32 for part in re.split(r"[=,{\n]", text)):
        raise ValueError("a key has more than 32 parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply")


def parse_duration(text: str, *, or_none: bool = False) -> float:
    """Seconds in `90s`, `10m`, `2h`, `1d` or a plain number of minutes. `or_none`: 0 is one, too. Raises
    `UsageError`."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", text.strip())
    seconds = float(match[1]) * {"s": 1, "m": 60, "": 60, "h": 3600, "d": 86400}[match[2]] if match else 0
    if not seconds and not (or_none and match):
        raise UsageError(
            f"`{show(text)}` is not a duration", hint="write 90s, 10m, 2h or 1d; a plain number is minutes"
        )
    return seconds


def parse_range(text: str) -> range | None:
    """The numbers that `12-17` names, or `runs/12-17`; None for what is not a range of runs. Raises `UsageError`."""
    match = re.fullmatch(r"(?:runs/)?([0-9]{1,15})-([0-9]{0,15})/?", text)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2] or -1)
    for is_wrong, why, meant in (
        (last < 0, "has no last number", f"{first}-{first + 5}"),
        (first > last, f"names no run: {first} is more than {last}", f"{last}-{first}"),
        (first < 1, "begins before the first run", f"1-{max(last, 2)}"),
        (last - first >= RANGE, f"names more than {RANGE:,} numbers", f"{first}-{first + RANGE - 1}"),
    ):
        if is_wrong:
            raise UsageError(f"`{text}` {why}", hint=meant)
    return range(first, last + 1)


def parse_price(text: str) -> float:
    """US dollars an hour in `55.06`; `UNKNOWN` for `unknown`. Raises `UsageError`."""
    if not re.fullmatch(r"\$?\d*\.?\d+|unknown", text):
        raise UsageError(f"`{show(text)}` is not a price of an hour", hint="pay=55.06")
    return UNKNOWN if text == "unknown" else float(text.lstrip("$"))


def duration_text(seconds: float) -> str:
    """What `parse_duration` takes for so many seconds: `10m`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def parse_gpus(text: str) -> int:
    """The number of GPUs in `2`, or `ALL_GPUS` for `all`. Raises `UsageError`."""
    if text.strip().lower() == "all":
        return ALL_GPUS
    if not re.fullmatch(r"[0-9]{1,4}", text.strip()):
        raise UsageError(f"`{show(text)}` is not a number of GPUs", hint="--gpus 2, --gpus all, or --gpus 0 for none")
    return int(text)


def parse_size(text: str) -> int:
    """Bytes in `500M`, `8G`, `1.5G` or `1T`, in powers of 1024, as Docker and Slurm have it. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([mgt])(?:i?b)?", text.strip().lower())
    if not match:
        raise UsageError(f"`{show(text)}` is not a size", hint="write 500M or 8G")
    return int(float(match[1]) * {"m": 1, "g": 1 << 10, "t": 1 << 20}[match[2]]) << 20


def parse_variable(text: str) -> tuple[str, str]:
    """(name, value) of `K=V`; of `K` alone, with the value that it has here. Raises `UsageError`."""
    name, equals, value = text.partition("=")
    named = VARIABLE.fullmatch(name)
    if not equals and named:
        if name not in os.environ:
            raise UsageError(f"`{name}` is not set here", hint=f"`-e {name}=VALUE`, or first `export {name}=VALUE`")
        return name, os.environ[name]
    if not named or "\0" in value:
        fixed = re.sub(r"[^A-Za-z0-9_]", "_", name).lstrip("0123456789")
        shown = show(name) + ("=…" if equals else "")  # its value may be a secret
        raise UsageError(f"`{shown}` is not the name of an environment variable", hint=f"-e {fixed or 'NAME'}=VALUE")
    return name, value


def parse_mount(text: str) -> Mount:
    """Of `RESOURCE[:PATH]`, or `./FOLDER[:PATH]`: an upload under the folder's own name. Raises `UsageError`."""
    typed, colon, path = text.partition(":")
    if not re.match(r"(\.\.?|~)(/|$)", typed):
        if typed and os.path.exists(typed) and not Resource.is_one(typed):
            meant = shlex.quote(f"./{os.path.relpath(typed)}{colon}{path}")
            raise UsageError(f"`{show(typed)}` is not a resource", hint=f"-m {meant}   uploads what is here, first")
        return Mount.parse(text)
    local = os.path.abspath(os.path.expanduser(typed))
    name = os.path.basename(local)
    if not os.path.exists(local):
        raise UsageError(f"there is no `{show(typed)}` here", hint="-m ./FOLDER:PATH, or -m uploads/NAME:PATH")
    check_upload_name(name, f"remoterun upload {shlex.quote(typed)} --name NAME   then -m uploads/NAME")
    resource = f"uploads/{name}" if os.path.isdir(local) else f"uploads/{name}/{name}"
    return replace(Mount.parse(resource + colon + path), local=local)


def parse_secret(text: str) -> tuple[str, str]:
    """(variable, name of the secret) of `NAME[=VARIABLE]`. Raises `UsageError`."""
    name, equals, variable = text.partition("=")
    for word in (name, variable) if equals else (name,):
        if not VARIABLE.fullmatch(word):
            raise UsageError(
                "a secret goes by its name, optionally with the variable that gets it",  # what was typed may be a value
                hint="`--secret HF_TOKEN`, or `--secret HF_TOKEN=TOKEN`; `remoterun secret` shows the names",
            )
    return variable or name, name


def parse_port(text: str) -> PortSpec:
    """`PORT[:LOCAL]`: a port of a run, and the one on this machine that it is forwarded to. Raises `UsageError`."""
    match = re.fullmatch(r"(\d{1,5})(?::(\d{1,5}))?", text.strip())
    numbers = [int(number) for number in match.groups() if number is not None] if match else []
    if not numbers or not all(0 < number < 65536 for number in numbers):
        raise UsageError(f"`{show(text)}` is not a port", hint="write 6006, or 6006:7000 for port 7000 of this machine")
    return PortSpec(*numbers)


def parse_package(text: str) -> str:
    """`text` as it is: what pip shall install. Raises `UsageError` for what no pip can read."""
    if not text.strip():
        raise UsageError("--pip names no package", hint="--pip numpy")
    is_plain = not re.search(r"^\s*[-.]|[\n/\\]|\$\{", text)  # no option, path, or address
    if is_plain and not _REQUIREMENT.fullmatch(" ".join(text.split())):
        hint = "write `--pip NAME` or `--pip 'NAME>=1.2'`, and --pip again for another one"
        raise UsageError(f"pip can't read the package `{show(text)}`", hint=hint)
    return text


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """The first known word that differs from `word` by one letter, or two that are swapped, or else begins with it;
    None where all are farther away, as a wrong guess does harm. Case, `-`/`_`, and signs before it do not count."""
    names = [*known]
    typed, *plain = (text.lower().replace("_", "-").lstrip("-=") for text in (word, *names))

    def distance(name: str) -> int:
        same = len(os.path.commonprefix([name, typed]))
        a, b = name[same:], typed[same:]
        if a == b or len(typed) < 3:
            return 0 if a == b else 3
        is_one_letter = b[1:] in (a, a[1:]) or b in (a[1:], a[1::-1] + a[2:])
        return 1 if is_one_letter and typed[0] in name[:2] else 3 if b else 2

    far, index = min(((distance(name), index) for index, name in enumerate(plain)), default=(3, 0))
    return names[index] if far < 3 else None


def known_words(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not known: the one that was meant, as far as can be told, and all of them."""
    words = list(known)
    close = did_you_mean(word, words)
    return (f"did you mean `{close}`? " if close else "") + f"known are {', '.join(words)}"
