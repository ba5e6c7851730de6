"""The main job, end to end, on this machine: `make demo`. It may be run again, also after ^C.

It types the commands of the lesson for you, each shown before it runs: upload a text, train a character model on it,
look at the run, let the model write, copy it here.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
MAKE_SAMPLE = TOP / "examples" / "corpus" / "make_sample.py"
TRAIN = "python -m trainer.train --data_dir=./data"
WRITE = "python -m trainer.generate models --seed 'ROMEO:'"
WIDTH = 80


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=TOP / "demo", help="where it works")
    parser.add_argument("--steps", type=int, help="so few steps of training, instead of 8 epochs")
    options = parser.parse_args(arguments)
    if shutil.which("git") is None:
        sys.exit("the demo needs git: sudo apt install git")
    length = "--num_epochs 8" if options.steps is None else f"--steps {options.steps}"
    here = Path(sys.executable).parent
    program = "remoterun" if shutil.which("remoterun") else os.path.relpath(here / "remoterun")
    os.environ["PATH"] = str(here) + os.pathsep + os.environ["PATH"]
    signal.signal(signal.SIGINT, lambda *_: None)  # the command that is running gets ^C too, and says what goes on

    demo = Demo(options.folder)
    say(f"remoterun's demo: the main job on this machine (`local`), in the folder {os.path.relpath(demo.folder)}")
    demo.make_work_tree()
    demo.type("remoterun", "upload", "data/input.txt", "--name", "demo", "--to", "local")
    demo.type("remoterun", "run", "-y", "-t", "local", "-m", "uploads/demo:data", f"{TRAIN} {length}")
    run = f"runs/{demo.newest_run(f'{TRAIN} {length}')}"
    demo.type("remoterun", "ps", "-n", "3")
    demo.type("remoterun", "ls", run)
    demo.type("remoterun", "run", "-y", "-t", "local", "-m", f"{run}/models:models", WRITE)
    demo.type("remoterun", "cp", "-y", f"{run}/models", "models")
    say(f"\nThe model is in {os.path.relpath(demo.folder / 'models')}, in the format that ml5.js loads. Next:\n")
    following = {
        f"open {run}": "a page in your browser in which it writes",
        f"logs {run}": "the training's log again",
        "machines add box user@host --gpus 1": "a machine of yours",
        "run -t box …": "the same there",
    }
    for command, meaning in following.items():
        say(f"  {program} {command}\n      {meaning}")
    return 0


class Demo:
    """The work in one folder. Each step may be repeated."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def make_work_tree(self) -> None:
        """A git work tree in which nothing is tracked, with a text that git ignores."""
        self.folder.mkdir(parents=True, exist_ok=True)
        say(self._ask(sys.executable, str(MAKE_SAMPLE), "data/input.txt").rstrip())
        self._ask("git", "init", "--quiet")
        ignored = self.folder / ".git" / "info" / "exclude"
        ignored.parent.mkdir(exist_ok=True)
        ignored.write_text("data/\nmodels/\n")

    def type(self, *words: str) -> None:
        """Show a command, run it, and end with its status if it fails."""
        say(f"\n$ {shown(*words)}")
        status = subprocess.run(words, cwd=self.folder).returncode
        if status:
            say(f"\nThe demo ends here: that command's exit status is {status}. `make demo` begins again.")
            sys.exit(status)

    def newest_run(self, command: str) -> int:
        """The number of the newest run of a command, as others may be started meanwhile."""
        runs = json.loads(self._ask("remoterun", "ps", "-n", "50", "--json"))
        return max(run["number"] for run in runs if run["command"] == command)

    def _ask(self, *words: str) -> str:
        done = subprocess.run(words, cwd=self.folder, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)  # it has said why
        return done.stdout


def say(text: str) -> None:
    print(text, flush=True)


def shown(*words: str) -> str:
    """A command as one types it; what doesn't fit in a line of the terminal stands in the next one."""
    *first, last = (f'"{word}"' if " " in word and '"' not in word else shlex.quote(word) for word in words)
    line = " ".join([*first, last])
    return line if len(line) <= WIDTH - 2 else " ".join(first) + f" \\\n    {last}"


if __name__ == "__main__":
    sys.exit(main())
