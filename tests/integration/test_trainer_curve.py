"""The loss curve, as matplotlib draws it."""

import re
from pathlib import Path
from xml.etree import ElementTree

from tests.models import a_training
from trainer import curve

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_curve_is_a_png_and_an_svg_and_the_same_each_time(tmp_path: Path) -> None:
    metrics = a_training(tmp_path / "metrics.jsonl")
    said = curve.draw(metrics, tmp_path, "2 LSTM layers of 128", "character")
    assert said == f"loss curve: {tmp_path / 'loss.png'} and loss.svg"
    png, svg = (tmp_path / "loss.png").read_bytes(), (tmp_path / "loss.svg").read_bytes()
    assert png.startswith(PNG) and len(png) > 10_000
    root = ElementTree.fromstring(svg)
    assert root.tag.endswith("}svg")
    ids = {element.get("id") for element in root.iter()}
    assert {"axes_1", "legend_1"} <= ids
    words = re.sub(rb"\s+", b" ", svg)
    for word in (b"step", b"loss, nats per character", b"2 LSTM layers of 128", b"validation: 1.612 at its best"):
        assert word in words
    curve.draw(metrics, tmp_path, "2 LSTM layers of 128", "character")
    assert ((tmp_path / "loss.png").read_bytes(), (tmp_path / "loss.svg").read_bytes()) == (png, svg)


def test_a_curve_without_validation_or_without_anything(tmp_path: Path) -> None:
    curve.draw(a_training(tmp_path / "metrics.jsonl", validation=False), tmp_path, "title", "token")
    assert b"validation" not in (tmp_path / "loss.svg").read_bytes()
    (tmp_path / "empty.jsonl").write_text("")
    assert "is empty" in curve.draw(tmp_path / "empty.jsonl", tmp_path / "none", "title", "token")
    assert not (tmp_path / "none").exists()
