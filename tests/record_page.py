"""Takes pictures of the page of runs, light and dark, for the README: python -m tests.record_page

It makes `examples/runs-light.webp` and `examples/runs-dark.webp`. The runs are real, with a temporary home, on this
machine. Only what they train is for show: `PAINT` reports numbers, and paints hills that get clearer step by step.
"""

from __future__ import annotations

import base64
import functools
import re
import subprocess
import tempfile
from pathlib import Path

from remoterun.agent.store.home import Home
from tests.browser import Browser
from tests.e2e.conftest import make_place
from tests.e2e.ui import page_of
from tests.workshop import build_environment, lend, until

EXAMPLES = Path(__file__).parents[1] / "examples"
RUNS = (
    ("First hills", "box --label baseline", ""),
    ("A rate that is too high", "lab", "--lr 0.3"),
    ("Half as wide", "box --label width", "--width 128"),
    ("Twice as wide", "box --label width", "--width 512"),
    ("Slow and steady", "lab", "--lr 0.0005 --steps 40000"),
    ("Warmer palettes", "lab --label night", "--lr 0.004"),
    ("Wider, and for longer", "box --label night", "--lr 0.001 --width 512 --steps 12000"),
    ("Finer ridges", "box --after 7 --label night", "--width 640"),
)
"""The subject of the commit; after `run -t`; after `paint.py`."""
PINNED, STOPPED, CHOSEN = 4, 5, 7
PAINT = r"""
import json, math, pathlib, random, struct, sys, time, zlib

given = dict(zip((word[2:] for word in sys.argv[1::2]), map(float, sys.argv[2::2])))
lr, width, steps = ({"lr": 0.003, "width": 256, "steps": 3000} | given).values()
chance = random.Random(width)
WIDE, HIGH = 176, 110
COLOURS = {"dawn": "fde0c2 f08a78 c4657a 7c4a72 30264a", "dusk": "ffc27a d4666c 8a4684 4a3478 1a1838",
           "noon": "e2f0f4 9accd8 559fae 2f6c7a 143440"}
VERSE = "The hill is blue,\nthe road is long,\nand evening falls\nupon a song.\n"
def mix(one, other, share):
    return [a + (b - a) * share for a, b in zip(one, other)]
def paint(name, clear):
    colours = [bytes.fromhex(colour) for colour in COLOURS[name].split()]
    place, soft, rows = random.Random(name), 0.1 + 4.8 * (1 - clear) ** 2, b""
    waves = [[(2.1**n, place.uniform(0, 6)) for n in range(1, 7)] for _ in range(4)]
    tops = [[0.36 + 0.17 * line + sum(0.13 / f * math.sin(f * x / WIDE * 2.6 + start) for f, start in parts)
             for x in range(WIDE)] for line, parts in enumerate(waves)]
    for y in range(HIGH):
        rows += b"\0"
        for x in range(WIDE):
            layers = [(0.1 - math.hypot((x - 0.68 * WIDE) / HIGH, y / HIGH - 0.28), (255, 250, 236))]
            for line, top in enumerate(tops):
                below = y / HIGH - top[x]
                layers.append((below, mix(colours[line + 1], colours[line], 0.55 - 1.1 * below)))
            shade, grain = mix(*colours[:2], y / HIGH), chance.gauss(0, 70 * (1 - clear) ** 2 + 2)
            for inside, colour in layers:
                shade = mix(shade, colour, 0.5 + 0.5 * math.tanh(inside / soft * 24))
            rows += bytes(int(max(0, min(255, value + grain))) for value in shade)
    parts = b"IHDR" + struct.pack(">2I5B", WIDE, HIGH, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(rows), b"IEND"
    whole = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)
metrics, samples = open("metrics.jsonl", "w"), pathlib.Path("samples")
samples.mkdir()
for step in range(20, int(steps) + 1, 20):
    time.sleep(width**2 * 6e-7)
    clear = 1 - math.exp(-step * lr / 2.6)
    loss = 1.5 / width**0.5 + 1.9 * (1 - clear) + chance.gauss(0, 0.02 + 0.05 * (1 - clear)) + (step * lr / 100) ** 2
    accuracy = 0.985 - 0.4 / width**0.5 - 0.8 * (1 - clear) + chance.gauss(0, 0.01)
    said = {"step": step, "loss": loss, "val_loss": loss + chance.gauss(0.06, 0.01), "accuracy": accuracy}
    print(json.dumps(said), file=metrics, flush=True)
    if step % 100 == 0:
        print(f"step \033[1m{step}\033[0m of {steps:.0f}   loss \033[34m{loss:.3f}\033[0m   {accuracy:.1%}", flush=True)
    if step % (steps // 15) == 0:
        for name in COLOURS:
            (samples / f"{name}-step-{step:05}.png").write_bytes(paint(name, clear))
        seen = "".join(letter if letter == "\n" or chance.random() < clear else "·" for letter in VERSE)
        (samples / f"verse-step-{step:05}.txt").write_text(seen)
    assert loss < 9, "the loss grows without bound"
"""


def record(root: Path) -> None:
    """Blocks for some two minutes."""
    place = make_place(root)
    for name in ("box", "lab"):
        lend(build_environment(root / "environment"), Home.open(str(root / name)))
        place.run("machines", "add", name, "local", "--engine", "process", "--slots", "9", "--home", str(root / name))
    (place.folder / "paint.py").write_text(PAINT)
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@example.org"]
    subprocess.run([*git, "add", "."], cwd=place.folder, check=True)
    for subject, where, words in RUNS:
        subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", subject], cwd=place.folder, check=True)
        place.run("run", "-b", "-t", *where.split(), f"python paint.py {words}".strip())
    with page_of(place) as address, Browser() as browser:
        page = browser.tab().page
        page.goto(f"{address}runs/{PINNED}")
        page.get_by_role("button", name="Pin").click()
        page.goto(f"{address}runs/{CHOSEN}")
        page.get_by_text(re.compile("step [5-9],")).first.wait_for()
        place.run("stop", str(STOPPED))
        for scheme in ("light", "dark"):
            page = browser.tab(1280, 800, color_scheme=scheme, device_scale_factor=1.5).page
            page.goto(f"{address}runs/{CHOSEN}")
            page.locator("output").get_by_text(re.compile("step [7-9],")).wait_for()
            page.get_by_role("img", name="Chart of loss.").wait_for()
            until(functools.partial(page.evaluate, "[...document.images].every((picture) => picture.naturalWidth)"))
            session = page.context.new_cdp_session(page)
            picture = session.send("Page.captureScreenshot", {"format": "webp", "quality": 85})["data"]
            (EXAMPLES / f"runs-{scheme}.webp").write_bytes(base64.b64decode(picture))
    place.run("kill", str(CHOSEN))
    place.run("wait", str(CHOSEN), str(CHOSEN + 1), status=None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="page") as folder:
        record(Path(folder))
