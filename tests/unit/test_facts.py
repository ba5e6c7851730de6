"""Facts of a run, each of which is one row of a table; and the structs of remoterun: of two kinds, with a name each."""

from __future__ import annotations

import ast
import functools
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import remoterun

TWINS = {"AWS", "Client", "Progress", "Settings"}
"""Class names that stand in two files, as each is the right word in its room."""
ROWS = {
    "agent/shared/facts.py": (
        "    kept: bool",
        'heat: Optional[float] = fact(None, info="heat", column=Column("HEAT"), page="{} degrees")',
    ),
    "model/runs.py": (
        "    pinned: bool",
        'mood: str = fact("", info="mood", column=Column("MOOD"), page="in a {} mood")',
    ),
}
"""For each of two files, the line before which a row is added, and the row."""
MEET_THEM = """
import contextlib, io, json, sys, time
from pathlib import Path
from remoterun.agent.shared.facts import RunEvent
from remoterun.agent.shared.records import from_json
from remoterun.agent.shared.states import RunState
from remoterun.agent.store.run_folder import RunFolder
from remoterun.cli.render import run_views
from remoterun.cli.schema import RUN
from remoterun.model import MachineType, by_our_clock, event_fields
from remoterun.registry import Registry
from remoterun.ui.rows import row
from tests.workshop import spec_of

folder = RunFolder(sys.argv[1] + "/run")
Path(folder.io).mkdir(parents=True)
Path(folder.spec_file).write_bytes(spec_of(created=1.5).encode())
folder.move(RunState.RUNNING, heat=70.5)  # the place that measures it
event = from_json(RunEvent, folder.events()[0])
status = by_our_clock(folder.status())
assert event.heat == status.heat == event_fields(event)["heat"] == 70.5
registry = Registry(Path(sys.argv[1], "registry.db"))
run = registry.add_run(folder.key, MachineType("box"), "true", 1.0)
registry.annotate(run, mood="good")
registry.update(run, status, time.time())
run = registry.run("last")
assert (run.heat, run.mood) == (70.5, "good") == (run.record()["heat"], run.record()["mood"])
assert {"anyOf": [{"type": "number"}, {"type": "null"}]} == RUN["properties"]["heat"]
assert {"type": "string"} == RUN["properties"]["mood"] and {"heat", "mood"} < set(RUN["required"])
assert [each[0].replace("{}", str(each[2])) for each in row(run, 2.0)["figures"]] == ["in a good mood", "70.5 degrees"]
run_views.runs_table([run], verbose=False)
run_views.run_info(run, {"spec": None})
"""


def test_a_fact_that_is_added_to_the_table_is_met_everywhere(tmp_path: Path) -> None:
    """In events, status, registry, JSON, schema, `ps`, `info` and on the page."""
    package = Path(remoterun.__file__).parent
    copy = shutil.copytree(package, tmp_path / "copy" / "remoterun", ignore=shutil.ignore_patterns("__pycache__"))
    for name, (place, row) in ROWS.items():
        text = (copy / name).read_text()
        assert text.count(place) == 1
        (copy / name).write_text(text.replace(place, f"    {row}\n{place}"))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(copy.parent), str(package.parent)])}
    words = [sys.executable, "-P", "-c", MEET_THEM, str(tmp_path)]
    done = subprocess.run(words, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heads, cells, *info = (line.split() for line in done.stdout.splitlines())
    assert heads[-3:] == ["MOOD", "HEAT", "COMMAND"] and cells[-3:] == ["good", "70.5", "true"]
    assert ["heat", "70.5"] in info and ["mood", "good"] in info


def test_a_class_name_stands_in_one_file() -> None:
    names = Counter(name for _, name in {(file, node.name) for file, node in _classes()})
    assert {name for name, count in names.items() if count > 1} <= TWINS


def test_a_struct_is_a_record_or_a_dataclass() -> None:
    others = {"NamedTuple", "namedtuple", "TypedDict"}
    assert not [node.name for _, node in _classes() if others & {ast.unparse(base) for base in node.bases}]


@functools.cache
def _classes() -> list[tuple[Path, ast.ClassDef]]:
    files = [(file, ast.parse(file.read_text())) for file in Path(remoterun.__file__).parent.rglob("*.py")]
    return [(file, node) for file, tree in files for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
