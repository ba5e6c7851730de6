"""The program that writes text with a model."""

import resource
import subprocess
import sys
from pathlib import Path

from tests.models import some_weights, write


def test_it_starts_in_a_moment_and_without_tensorflow(tmp_path: Path) -> None:
    """To the first character of a model of the default size, in the processor's time, and beside that of an import of
    NumPy: other tests may keep the machine busy."""
    write(tmp_path, some_weights(hidden=128, vocab=67), "".join(chr(32 + place) for place in range(66)) + "\n")
    program = (
        "import sys; from trainer.generate import main; status = main(sys.argv[1:]);"
        "sys.exit('tensorflow' if 'tensorflow' in sys.modules or 'keras' in sys.modules else status)"
    )
    writes = min(processor_seconds("-c", program, str(tmp_path), "--length", "1") for _ in range(3))
    assert writes < 3 * min(processor_seconds("-c", "import numpy") for _ in range(3))


def processor_seconds(*words: str) -> float:
    """What a Python takes that does well and says no errors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stderr) == (0, "")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, some_weights())
    for more in ("--length 20000", "--length 2000 --reverse"):
        command = f"{sys.executable} -m trainer.generate {tmp_path} {more} | head -c 1"
        result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr) == (0, "")
