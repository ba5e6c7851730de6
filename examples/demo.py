"""The main job, end to end, on this machine: `make demo`. Safe to run again.

It types the commands of the lesson for you, each shown before it runs: upload a text, train a character model on it,
look at the run, let the model write, copy it back.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
FOLDER = TOP / "demo"
TRAIN = "python -m trainer.train --data_dir=./data --num_epochs 8"
WRITE = "python -m trainer.generate models --seed 'ROMEO:' --length 400 --temperature 0.5"


def main() -> int:
    program = "remoterun" if shutil.which("remoterun") else str(Path(sys.executable).parent / "remoterun")
    os.environ["PATH"] = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    say("remoterun's demo: the main job on the machine in front of you (`local`)")
    data = FOLDER / "data" / "input.txt"
    data.parent.mkdir(parents=True, exist_ok=True)
    corpus = subprocess.run([sys.executable, str(TOP / "examples/corpus/make_sample.py"), str(data)])
    if corpus.returncode:
        return corpus.returncode
    (FOLDER / ".gitignore").write_text("data/\nmodels/\n")
    if not (FOLDER / ".git").exists():
        subprocess.run(["git", "init", "--quiet", str(FOLDER)], check=True)
        subprocess.run(["git", "-C", str(FOLDER), "add", ".gitignore"], check=True)

    type_("remoterun", "upload", "data/input.txt", "--name", "demo")
    type_("remoterun", "run", "--yes", "--mount", "uploads/demo:data", TRAIN)
    number = answer("remoterun", "ps", "--number", "1", "--json")
    type_("remoterun", "ps", "--number", "3")
    type_("remoterun", "ls", f"runs/{number}")
    type_("remoterun", "run", "--yes", "--mount", f"runs/{number}/models:models", WRITE)
    type_("remoterun", "cp", "-y", f"runs/{number}/models", "models")
    say(f"The model is in {FOLDER / 'models'}, in the format that ml5.js loads. Next:")
    say(f"  {program} open runs/{number}   a page in your browser in which it writes")
    say(f"  {program} logs {number}        the training's log again")
    say(f"  {program} machines add box user@host --gpus 1     a machine of yours")
    say(f"  {program} run -t box …    the same there")
    return 0


def say(text: str) -> None:
    print(text, flush=True)


def type_(*words: str) -> None:
    """Show a command, run it in the demo's folder, and end with its status if it fails."""
    say("")
    say(f"$ {' '.join(quoted(word) for word in words)}")
    status = subprocess.run(words, cwd=FOLDER).returncode
    if status:
        say(f"that ended with status {status}")
        sys.exit(status)


def answer(*words: str) -> int:
    """The number of the newest run."""
    import json

    done = subprocess.run(words, cwd=FOLDER, stdout=subprocess.PIPE, check=True)
    number: int = json.loads(done.stdout)[-1]["number"]
    return number


def quoted(word: str) -> str:
    return f'"{word}"' if " " in word and '"' not in word else shlex.quote(word)


if __name__ == "__main__":
    if shutil.which("git") is None:
        sys.exit("the demo needs git: sudo apt install git")
    sys.exit(main())
