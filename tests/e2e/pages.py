"""The example's page, with a model that a test knows."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tests.browser import Tab
from tests.models import probabilities
from tests.workshop import User
from trainer import export

CHARACTERS = list("etaoinshr dlu\nbcE7é🙂")


def write_model(
    folder: Path, *, cell: str = "lstm", layers: int = 2, largest: tuple[float, float] = (-1, 1), **settings: Any
) -> Path:
    """A model without training: its numbers are drawn, large enough that its letters differ in likelihood."""
    draw = np.random.default_rng(7)
    units, size = 24, len(CHARACTERS)

    def numbers(*shape: int) -> export.Floats:
        return draw.normal(0, 0.7, shape).astype(np.float32)

    weights = {
        export.EMBEDDING: numbers(size, units),
        export.SOFTMAX_W: 2 * numbers(units, size),
        export.SOFTMAX_B: numbers(size),
    }
    gates = {"lstm": 4, "rnn": 1}[cell] * units
    for layer in range(layers):
        kernel, bias = export.names(cell, layer)
        weights |= {kernel: numbers(2 * units, gates), bias: numbers(gates)}
    about = {"step": 300, "num_layers": layers, "val_bpc": 2.479, "model": cell, **settings}
    export.write_model(folder, weights, CHARACTERS, learning_rate=0.1, largest_logits=largest, settings=about)
    return folder


def expected(model: Path, text: str, temperature: float = 1) -> Any:
    """The next-character probabilities after each character, by NumPy: [len(text), characters]."""
    weights, characters = export.read_model(model)
    return probabilities(weights, [characters.index(each) for each in text], temperature)


def visit(tab: Tab, address: str) -> Any:
    """The page once it has loaded its model, or can't."""
    tab.page.goto(address)
    tab.page.wait_for_selector("body:not([data-state=loading])")
    return tab.page


def write(page: Any, seed: str, length: int = 60, temperature: float = 0.5) -> str:
    """What stands on the paper, the seed included."""
    page.get_by_label(re.compile("It (begins|ends) with")).fill(seed)
    page.get_by_label("Letters").fill(str(length))
    page.get_by_label("Temperature").fill(str(temperature))
    page.get_by_role("button", name="Write").click()
    page.wait_for_selector("body[data-state=ready]")
    assert re.fullmatch(rf"Wrote {length} letters in [\d.]+ s\.", page.locator("#status").inner_text())
    return str(page.locator("#letters").text_content())


CONTRAST = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = parts(colour).map((each) => each / 255)
            .map((each) => (each <= 0.03928 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const under = (element) => {
        for (; element; element = element.parentElement) {
            const colour = getComputedStyle(element).backgroundColor;
            if (parts(colour)[3] !== 0) return colour;
        }
    };
    const found = {};
    const words = "h1, p, label, output, button:enabled, textarea, input, figcaption, code, #letters span";
    for (const element of document.querySelectorAll(words)) {
        if (!element.checkVisibility()) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(under(element))].sort((x, y) => y - x);
        found[`${element.localName}#${element.id}.${element.className}`] = (a + 0.05) / (b + 0.05);
    }
    return found;
}"""


def environment(user: User, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")}
    kept.pop("SSH_CONNECTION", None)
    return {**kept, "REMOTERUN_HOME": str(user.config.home), **more}


def png(shade: int, side: int = 8) -> bytes:
    """A picture of one grey."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([shade]) * side) * side
    head = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
