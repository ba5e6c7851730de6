"""How far a training step is from the limit of this machine's cores, and where its time goes.

Four clocks in turns: the step itself; the step with 8 units instead, which multiplies next to nothing and so tells what
loops and bookkeeping cost; the step's matrix products alone; and the machine's best, products of two 1024 x 1024
matrices. Then Linux' `perf` samples the step and says in which kind of code the cores were.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
import signal
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.bench.trainer.race import Machine, Race, Side, race
from tests.bench.trainer.sides import peak
from tests.bench.trainer.sides.lap import Task
from tests.bench.trainer.speed import Size

FEW_UNITS = 8
SAMPLES_A_SECOND = 499
PERF_START_SECONDS = 10.0

# By where the sample fell: the library, then the function. The first that matches counts.
KINDS = (
    ("matrix products", r"", r"dot_fp32|dot_.*avx|gebp|gemm(?!_pack)|sgemm|EvalGemm|dnnl.*kernel"),
    ("operands of products packed, transposed", r"", r"gemm_pack|pack_[lr]hs|transpose|pack_|_copy_[ab][nt]_kern"),
    ("copies in memory", r"", r"memmove|memcpy|memset|clear_page|copy_page"),
    ("XLA's compiled code: gates, sums, losses", r"\[JIT\]|perf-\d+\.map|//anon|\[unknown\]|memfd", r""),
    ("Adam", r"", r"ApplyAdam"),
    ("the kernel", r"\[kernel", r""),
    ("Python", r"python|_pywrap", r""),
    ("TensorFlow: scheduling, small operations", r"", r""),
)


@dataclass(frozen=True)
class Profile:
    """`floating` and `nominal`: floating-point operations a character, of the folded network and of the plain one.

    `speed` characters a second; `peak` operations a second; milliseconds: `step`, `few_units`, `products`.
    `samples`: shares of the time of all cores by kind, idle among them; empty without perf, and `no_samples` says why.
    """

    task: Task
    floating: float
    nominal: float
    speed: float
    peak: float
    step: float
    few_units: float
    products: float
    samples: dict[str, float]
    no_samples: str
    about: str
    loud: str

    @property
    def limit(self) -> float:
        """Characters a second if all of the step ran at the peak."""
        return self.peak / self.floating

    def text(self) -> str:
        at_peak = self.floating * self.task.characters / self.peak * 1000
        rest = max(0.0, self.step - max(self.products, at_peak))
        lines = [
            f"the step at {self.task.rnn_size} units ({self.about}):",
            f"  {self.floating / 1e6:.2f} MFLOP a character as computed; {self.nominal / 1e6:.2f} if the first layer's"
            f" input were not folded into a table",
            f"  {self.peak / 1e9:.0f} GFLOP/s at best here (1024 x 1024, {self.task.threads} threads):"
            f" at most {self.limit / 1000:.0f}k characters/s",
            f"  {self.speed / 1000:.0f}k characters/s reached: {self.speed / self.limit:.0%} of that limit",
            f"  {self.step:5.1f} ms a step, of which",
            f"    {at_peak:5.1f} ms  its products would take at the machine's best",
            f"    {max(0.0, self.products - at_peak):5.1f} ms  more they do take, in their own small shapes",
            f"    {rest:5.1f} ms  everything else; loops and bookkeeping of it: {self.few_units:.1f} ms (the step"
            f" with {FEW_UNITS} units)",
        ]
        if self.samples:
            lines.append("  where the cores were, sampled by perf:")
            lines += [f"    {share:5.1%}  {kind}" for kind, share in self.samples.items()]
        else:
            lines.append(f"  no samples: {self.no_samples}")
        if self.loud:
            lines.append(f"  {self.loud}: none of this counts")
        return "\n".join(lines)


def measure(size: Size, rounds: int, machine: Machine) -> Profile:
    """Raises Unavailable without a text, or if a side fails."""
    with tempfile.TemporaryDirectory() as folder:
        task = size.task(Path(folder))
        sides = {
            "step": Side("the trainer", "ours", task),
            "few": Side("the trainer", "ours", dataclasses.replace(task, rnn_size=FEW_UNITS)),
            "products": Side("the products", "products", task),
            "peak": Side("NumPy", "peak", task),
        }
        found = race(sides, rounds, machine)
        try:
            samples, why = sample(task), ""
        except NoSamples as error:
            samples, why = {}, str(error)
    return Profile(
        task=task,
        floating=operations(task, folded=True),
        nominal=operations(task, folded=False),
        speed=found.median("step"),
        peak=statistics.median(peak.FLOP / task.characters * speed for speed in found.speeds["peak"]),
        step=_milliseconds(task, found, "step"),
        few_units=_milliseconds(task, found, "few"),
        products=_milliseconds(task, found, "products"),
        samples=samples,
        no_samples=why,
        about=found.about["step"],
        loud=found.loud,
    )


def operations(task: Task, *, folded: bool) -> float:
    """Floating-point operations of the products a character takes, there and back: twice as many back as there.

    Folded, the first layer's input is a look-up in a table of the vocabulary's gates; what is left of it is the table,
    once a step and shard, and on the way back a product with the characters' one-hot rows.
    """
    size, vocab = task.rnn_size, task.vocab_size
    kernel = 2 * size * 4 * size
    whole = 3 * (2 * task.num_layers * kernel + 2 * size * vocab)
    if not folded:
        return whole
    shards = max(parts for parts in range(1, task.threads + 1) if task.batch_size % parts == 0)
    table = 3 * 2 * vocab * size * 4 * size * shards / task.characters
    return whole - 3 * kernel + table + 2 * vocab * 4 * size


class NoSamples(Exception):
    """Why perf can't be used here."""


def sample(task: Task) -> dict[str, float]:
    """The shares of a lap's time that the cores spent in each kind of code, and idle; the largest first."""
    perf = shutil.which("perf")
    if perf is None:
        raise NoSamples("perf is not installed (Debian: apt install linux-perf)")
    # oneDNN, which has the largest products, writes its machine code itself, as XLA does; it can name it for perf.
    named = {"ONEDNN_JIT_PROFILE": "2"}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        side = stack.enter_context(Side("the trainer", "ours", task, variables=named))
        stack.callback(Path(f"/tmp/perf-{side.pid}.map").unlink, missing_ok=True)  # where perf looks for the names
        data = Path(folder) / "perf.data"
        words = [perf, "record", "-e", "cpu-clock", "-F", str(SAMPLES_A_SECOND), "-p", str(side.pid), "-o", str(data)]
        recording = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            side.seconds(1)  # perf has opened its counters by then
            seconds = side.seconds(2 * side.steps)
        finally:
            recording.send_signal(signal.SIGINT)
            said = recording.communicate(timeout=60)[1]
        if not data.exists() or data.stat().st_size == 0:
            raise NoSamples(f"perf record: {(said.strip().splitlines() or ['it said nothing'])[-1]}")
        report = subprocess.run(
            [perf, "report", "-i", str(data), "--stdio", "-F", "sample,dso,sym", "-t", "\t", "--percent-limit", "0"],
            check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    counts = kinds(report.stdout.splitlines())
    if not counts:
        raise NoSamples(f"perf report: {(report.stderr.strip().splitlines() or ['it said nothing'])[-1]}")
    available = max(seconds * task.threads * SAMPLES_A_SECOND, sum(counts.values()))
    counts["idle: waiting for the other shard, for memory to be handed over"] = round(available - sum(counts.values()))
    return {kind: count / available for kind, count in counts.most_common()}


def kinds(report: Sequence[str]) -> Counter[str]:
    """Samples by kind, from lines of `samples TAB library TAB [.] function`."""
    counts: Counter[str] = Counter()
    for line in report:
        fields = [field.strip() for field in line.split("\t")]
        if line.startswith("#") or len(fields) < 3 or not fields[0].isdigit():
            continue
        library, function = fields[1], fields[2]
        kind = next(
            kind for kind, where, what in KINDS if re.search(where, library) and re.search(what, function)
        )  # fmt: skip
        counts[kind] += int(fields[0])
    return counts


def _milliseconds(task: Task, found: Race, side: str) -> float:
    return 1000 * task.characters / found.median(side)
