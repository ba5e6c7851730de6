"""The program that writes text with a model."""

import resource
import subprocess
import sys
from pathlib import Path

from tests.unit.test_trainer_export import some_weights, write


def test_it_starts_in_a_moment_and_without_tensorflow(tmp_path: Path) -> None:
    """To the first character of a model of the default size, in the processor's time: other tests may keep it busy."""
    write(tmp_path, some_weights(hidden=128, vocab=67), "".join(chr(32 + place) for place in range(66)) + "\n")
    program = (
        "import sys; from trainer.generate import main; status = main(sys.argv[1:]);"
        "sys.exit('tensorflow' if 'tensorflow' in sys.modules or 'keras' in sys.modules else status)"
    )
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path), "--length", "1"], capture_output=True, text=True, timeout=60
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert (result.returncode, result.stderr) == (0, "")
    assert min(seconds) < 0.4


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    write(tmp_path, some_weights())
    for flag in ("", "--reverse"):
        command = f"{sys.executable} -m trainer.generate {tmp_path} --length 20000 {flag} | head -c 1"
        result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
        assert (result.returncode, result.stderr) == (0, "")
