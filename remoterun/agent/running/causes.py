"""Why a command failed, where the last line of its log says so in a form that programs are known to print."""

from __future__ import annotations

import re
from typing import Optional

from ..shared.environment import KNOWN_MODULES, PACKAGES

_STATUSES = (1, 2, 126, 127)  # Of programs, make, and shells: with another one, something else went wrong.
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_FOLLOWS = re.compile(r"\s*(\[Op:|\[\[|$)|make(\[\d+\])?: \*\*\* |[IW]\d{4} \d\d:\d\d:|[\d-]{10} \S+ [IW] tensorflow/")
"""A line that TensorFlow or `make` writes after an error."""
_CAUSES = (
    (rf"(?:ModuleNotFoundError: |\S*python[\d.]*: )No module named '?((?!(?:{'|'.join(KNOWN_MODULES)})\.)[\w.]+?)'?"
     r"|\S*python[\d.]*: Error while finding module .*\(ModuleNotFoundError: No module named '(\w+)'\)",
     "no module `{0}`: `--pip {1}` for a package, `git add` for a file of yours"),
    (r"EOFError: EOF when reading a line", "the command asks for input: `--stdin` sends what is typed here"),
    (r"    raise child_exception_type\(.*\nFileNotFoundError: \[Errno 2\] No such file or directory: '([\w.+-]+)'"
     r"|\S+: (?:line )?\d+: (?:exec: )?(?!python|source:|sudo:|nv)([\w.+-]+): (?:command )?not found(?!\n1\Z)",
     "there is no program `{0}`: `--apt` or `--pip`, with its package, installs it"),
    (r"\S+: (?:line )?\d+: (\./[\w./+-]+): Permission denied", "`{0}` is not executable: `chmod +x {0}` here"),
    (r"FileNotFoundError: \[Errno 2\] No such file or directory: '((?!/)[^'\n]+|/(?:home|Users)/[^'\n]+)'"
     r"|(?:cat|cp|grep|head|ls|tail|wc): (?:cannot \w+ )?'?((?!/)[^'`:*?\n]+)'?(?: for reading)?: No such.*"
     r"|\S+: \d+: cannot (?:open|create) ([^:\n]+): (?:No such file|Directory nonexistent)"
     r"|\S+: can't open file '(?:.*/)?([^'/\n]+)': .*|RuntimeError: Parent directory (\S+) does not exist\.",
     "`{0}` is not in the run: `git add` or `-m ./FOLDER` sends it; `mkdir -p` makes folders"),
    (r"[\w.]+Error: CUDA out of memory\. .*", "the GPU's memory was full: a smaller batch, or `-t` a larger GPU"),
    (r"(?:[\w.]+_Array)?MemoryError(?:: .*)?|OSError: \[Errno 12\] .*|RuntimeError: .*DefaultCPUAllocator: can't .*"
     r"|[\w.]+RuntimeError: RESOURCE_EXHAUSTED: .*|RuntimeError: DataLoader worker .* killed by signal: Bus error\. .*"
     r"|[\w.]*ResourceExhaustedError: .*OOM when allocating.*|Hint: If you want to see a list of allocated tensors .*",
     "memory was full: a smaller batch, or `-t` a machine with more"),
    (r"OSError: \[Errno (?:28|122)\] .*|[\w./-]+: .*(?:No space left on device|Disk quota exceeded)",
     "the disk, or a quota, is full: `remoterun machines df` shows what takes the space"),
    (r"\w+: +\[Errno 98\] .*ddress already in use", "the port is in use there: `--port` and the command need another"),
    (r"RuntimeError: (?:Found no NVIDIA driver|No CUDA GPUs are|Attempting to deserialize object on a CUDA).*"
     r"|\w+Error: libcuda\.so\.1: cannot open .*", "the run has no GPU: `--gpus 1`, and `-t` a machine that has one"),
    (r"(?:\w+Error|.*: error while loading shared libraries): ([\w.+-]+\.so[\d.]*): cannot open shared object file: .*",
     "there is no library `{0}`: `--apt`, with its package, installs it"),
    (r"  File \".*os(?:\.py|>)\", line \d+, in __getitem__\n(?:    raise KeyError.*\n)?KeyError: '([A-Za-z_]\w*)'"
     r"|\S+: (?:line )?\d+: ([A-Za-z_]\w*): (?:unbound variable|parameter not set)",
     "the variable {0} is not set: `-e {0}` sends yours, `--secret {0}` a saved one"),
    (r"[\w.]*HTTPError: (?:401 Client Error|HTTP Error 401): .*|Access to model \S+ is restricted\. You must .*"
     r"|wandb\.[\w.]+: (?:api_key not configured|No API key configured).*",
     "a server wants a login: `--secret NAME`, such as HF_TOKEN, sends a token"),
    (r"[\w.]+rror: .*\[Errno -[23]\] (?:Name or service not known|Temporary failure in name resolution).*",
     "an address was not found from there: `-m ./FOLDER` sends what can't be downloaded"),
    (r"OSError: \[Errno 30\] .*|[\w./-]+: .*: Read-only file system", "mounts are read-only: write to another folder"),
)  # fmt: skip


def cause_of(log: str, code: Optional[int]) -> Optional[str]:
    """Why a command ended with `code`, and what to type, in one line; None where that is not sure. `log`: its end."""
    lines = [_COLOUR.sub("", line[:2000]).rstrip() for line in log.split("\n")]
    while lines and _FOLLOWS.match(lines[-1]):
        lines.pop()
    for pattern, words in _CAUSES if code in _STATUSES else ():
        found = re.search(r"^(?:%s)\n\d+\Z" % pattern, "\n".join([*lines[-3:], str(code)]), re.MULTILINE)
        if found:
            it = "".join(char for char in found[found.lastindex or 0] if char.isprintable() and char != "`")[:100]
            return words.format(it, PACKAGES.get(it, it if it in KNOWN_MODULES else "PACKAGE"))
    return None
