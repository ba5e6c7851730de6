"""Flags, what --auto chooses, and the learning rate of each step."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.recorder import Recorded
from trainer import devices, recipes
from trainer.data import Text
from trainer.recipes import RECIPES
from trainer.schedule import FLOOR, MOST_WARM_UP, Schedule
from trainer.settings import SIZES, Settings, parse
from trainer.train import how_to_go_on

README = (Path(__file__).parents[2] / "trainer" / "README.md").read_text()

# ml5's script: https://github.com/ml5js/training-charRNN, train.py; --data_dir is of its older version.
ML5 = {
    "data_path": Path("data/input.txt"),
    "save_model": Path("models"),
    "save_checkpoints": Path("checkpoints"),
    "log_dir": Path("logs"),
    "rnn_size": 128,
    "num_layers": 2,
    "model": "lstm",
    "batch_size": 50,
    "seq_length": 50,
    "num_epochs": 50,
    "save_every": 1000,
    "grad_clip": 5.0,
    "learning_rate": 0.002,
    "decay_rate": 0.97,
    "output_keep_prob": 1.0,
    "input_keep_prob": 1.0,
    "total_time": 0,
    "init_from": None,
}


def test_ml5s_flags_have_ml5s_defaults() -> None:
    settings = parse([])
    assert {name: getattr(settings, name) for name in ML5} == ML5
    typed = parse([f"--{name}={value}" for name, value in ML5.items() if value is not None] + ["--init_from=x"])
    assert {**ML5, "init_from": Path("x")} == {name: getattr(typed, name) for name in ML5}
    assert typed.typed == set(ML5)
    assert parse(["--data_dir", "./data/", "--print_every", "3"]).data_dir == Path("data")


def test_every_flag_stands_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--help"])
    flags = set(re.findall(r"--[a-z_]+(?=[ ,])", capsys.readouterr().out)) - {"--help"}
    assert len(flags) > 25
    assert [flag for flag in flags if f"`{flag}`" not in README] == []


@pytest.mark.parametrize("name", SIZES)
def test_auto_holds_unless_a_size_is_typed(name: str) -> None:
    assert parse([]).chooses
    assert parse(["--learning_rate=0.1", "--steps=5"]).chooses
    assert not parse([f"--{name}=7"]).chooses
    assert parse([f"--{name}=7", "--auto"]).chooses
    assert not parse(["--no-auto"]).chooses


def test_what_is_typed_wins() -> None:
    recipe = recipes.recipe_for(10)
    chosen = parse(["--num_epochs=3", "--learning_rate=0.5"]).with_unless_typed(recipe.flags())
    assert (chosen.num_epochs, chosen.learning_rate) == (3, 0.5)
    assert (chosen.rnn_size, chosen.schedule, chosen.val_fraction) == (
        recipe.rnn_size,
        recipe.schedule,
        recipe.val_fraction,
    )


def test_a_typed_decay_rate_is_a_wish_for_that_schedule() -> None:
    wanted = {"schedule": "cosine"}
    assert parse(["--decay_rate=0.9"]).with_unless_typed(wanted).schedule == "decay"
    assert parse(["--decay_rate=0.9", "--schedule=cosine"]).with_unless_typed(wanted).schedule == "cosine"


@pytest.mark.parametrize(
    ("characters", "size"),
    [(1, RECIPES[0]), (499_999, RECIPES[0]), (500_000, RECIPES[1]), (15_000_000, RECIPES[3]), (10**9, RECIPES[-1])],
)
def test_more_text_gets_a_larger_network(characters: int, size: recipes.Recipe) -> None:
    assert recipes.recipe_for(characters) is size
    assert [recipe.rnn_size for recipe in RECIPES] == sorted(recipe.rnn_size for recipe in RECIPES)
    assert {recipe.num_layers for recipe in RECIPES} == {2}, "ml5.js reads the second layer, whatever there is"


def test_a_recipe_is_made_of_flags() -> None:
    for recipe in RECIPES:
        assert recipe.flags().keys() <= vars(Settings()).keys()
    assert recipes.recipe_for(10**9).size == f"{RECIPES[-2].below:,} characters and more"
    assert recipes.recipe_for(1).size == f"less than {RECIPES[0].below:,} characters"


def test_auto_saves_once_an_epoch_within_bounds() -> None:
    assert [recipes.save_every(epoch) for epoch in (3, 142, 7000)] == [100, 142, 1000]


def test_another_plan_is_the_same_training_and_another_network_is_not() -> None:
    def identity(*arguments: str, text: str = "to be") -> dict[str, Any]:
        return parse(arguments).identity(Text(text, ()))

    same = identity()
    assert identity("--num_epochs=7", "--steps=9", "--save_every=3", "--log_dir=x", "--resume=never") == same
    for other in ("--rnn_size=64", "--seed=2", "--reverse", "--level=word", "--val_fraction=0.1", "--init_from=x"):
        assert identity(other) != same
    assert identity(text="or not") != same


def test_resume_names_folders() -> None:
    assert parse([]).resume_folders == [Path("checkpoints")]
    assert parse(["--resume=never"]).resume_folders == []
    assert parse(["--resume=before"]).resume_folders == [Path("checkpoints"), Path("before")]


def test_a_run_of_remoterun_is_told_how_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REMOTERUN_OUTPUTS", "REMOTERUN_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    arguments = ["--data_dir=./data", "--resume", "before", "--steps", "9"]
    assert how_to_go_on(Path("checkpoints"), arguments) == "the same command goes on from there"
    monkeypatch.setenv("REMOTERUN_OUTPUTS", "runs/16/sub")
    said = how_to_go_on(Path("checkpoints"), arguments)
    assert "-m runs/16/sub/checkpoints:before" in said and "--resume before" in said
    monkeypatch.setenv("REMOTERUN_OPTIONS", "-t k80 -m runs/15/checkpoints:before -m 'uploads/doom:my data'")
    assert how_to_go_on(Path("checkpoints"), arguments).splitlines()[1].strip() == (
        "remoterun run -t k80 -m 'uploads/doom:my data' -m runs/16/sub/checkpoints:before"
        " 'python -m trainer.train --data_dir=./data --steps 9 --resume before'"
    )


def test_a_wrong_flag_is_said(capsys: pytest.CaptureFixture[str], recorded: Recorded) -> None:
    def said(argument: str) -> str:
        with pytest.raises(SystemExit) as exit:
            parse([argument])
        assert exit.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        return re.sub(r" \(choose from .*?\)", "", line)  # each Python quotes them in its own way

    recorded.cases(said)


def test_decay_falls_by_its_factor_each_epoch() -> None:
    schedule = Schedule("decay", 0.002, 0.97, epoch=10, total=500)
    rates = [schedule.rate(step) for step in range(1, 501)]
    assert rates[:10] == [0.002] * 10
    assert rates[10:20] == [pytest.approx(0.002 * 0.97)] * 10
    assert rates[-1] == pytest.approx(0.002 * 0.97**49)


def test_cosine_rises_shortly_then_falls_to_next_to_nothing() -> None:
    schedule = Schedule("cosine", 0.002, 0.97, epoch=10, total=1000)
    rates = [schedule.rate(step) for step in range(1, 1001)]
    top = rates.index(max(rates))
    assert (top + 1, rates[top]) == (20, 0.002)
    assert rates[: top + 1] == pytest.approx([0.002 * step / 20 for step in range(1, 21)])
    assert all(later < earlier for earlier, later in zip(rates[top:], rates[top + 1 :], strict=False))
    assert rates[-1] == pytest.approx(0.002 * FLOOR)
    assert rates[509] == pytest.approx(0.002 * (1 + FLOOR) / 2, rel=1e-3), "half way down"


@pytest.mark.parametrize("total", [1, 2, 49, 50, 10**6])
def test_cosine_fits_any_length(total: int) -> None:
    schedule = Schedule("cosine", 1.0, 0.97, epoch=10, total=total)
    steps = sorted({1, min(total, 2), min(total, MOST_WARM_UP), total})
    assert all(0 < schedule.rate(step) <= 1 for step in steps)
    assert schedule.rate(total) == pytest.approx(FLOOR)


def test_a_batch_is_dealt_out_to_as_many_gpus_as_have_equal_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [devices.replicas_for(batch, 4) for batch in (64, 50, 9, 7)] == [4, 2, 3, 1]
    monkeypatch.setattr(devices, "cores", lambda: 16)
    assert [devices.shards_for(batch, 128) for batch in (64, 50, 7, 11)] == [8, 5, 7, 1]
    assert [devices.shards_for(batch, 512) for batch in (32, 64)] == [8, 1]
