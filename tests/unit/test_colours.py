"""The eight colours of curves: anybody tells any two of them apart, in both themes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

import pytest

from remoterun.ui.page import STATIC

Triple = tuple[float, float, float]
SIGHTS: dict[str, Sequence[Sequence[float]]] = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
"""Machado, Oliveira and Fernandes 2009, severity 1.0: of linear RGB."""
STYLE = (STATIC / "style.css").read_text()
LIGHT, DARK = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_curves_are_told_apart_whatever_sight_one_has(theme: str) -> None:
    colours = {name: linear(value) for name, value in re.findall(r"--(c\d|ground): (#\w+);", theme)}
    ground = colours.pop("ground")
    assert len(colours) == 8
    for name, colour in colours.items():
        assert contrast(colour, ground) >= 3, name
    for sight, matrix in SIGHTS.items():
        seen = {name: lab(product(matrix, colour)) for name, colour in colours.items()}
        for one, other in itertools.combinations(seen, 2):
            assert difference(seen[one], seen[other]) >= 10, (sight, one, other)


def test_the_difference_is_ciede2000() -> None:
    # From the test data of Sharma, Wu and Dalal 2005.
    assert difference((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485)) == pytest.approx(2.0425, abs=1e-4)
    assert difference((50.0, 2.5, 0.0), (73.0, 25.0, -18.0)) == pytest.approx(27.1492, abs=1e-4)
    assert difference((22.7233, 20.0904, -46.694), (23.0331, 14.973, -42.5619)) == pytest.approx(2.0373, abs=1e-4)


def linear(colour: str) -> Triple:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return red, green, blue


def product(matrix: Sequence[Sequence[float]], colour: Triple) -> Triple:
    one, two, three = (sum(weight * part for weight, part in zip(row, colour, strict=True)) for row in matrix)
    return one, two, three


def contrast(one: Triple, other: Triple) -> float:
    light, dark = sorted((0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in (one, other)))[::-1]
    return (light + 0.05) / (dark + 0.05)


def lab(colour: Triple) -> Triple:
    to_xyz = (
        (0.4124564, 0.3575761, 0.1804375),
        (0.2126729, 0.7151522, 0.0721750),
        (0.0193339, 0.1191920, 0.9503041),
    )
    within = tuple(min(1.0, max(0.0, part)) for part in colour)
    xyz = [part / white for part, white in zip(product(to_xyz, within), (0.95047, 1, 1.08883), strict=True)]  # type: ignore[arg-type]
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def difference(one: Triple, other: Triple) -> float:
    """CIEDE2000."""
    mean_chroma = (math.hypot(*one[1:]) + math.hypot(*other[1:])) / 2
    more = 1.5 - 0.5 * math.sqrt(mean_chroma**7 / (mean_chroma**7 + 25**7))
    (light1, chroma1, hue1), (light2, chroma2, hue2) = (
        (light, math.hypot(a * more, b), math.degrees(math.atan2(b, a * more)) % 360) for light, a, b in (one, other)
    )
    turn = (hue2 - hue1 + 180) % 360 - 180
    light, chroma, hue = (light1 + light2) / 2, (chroma1 + chroma2) / 2, math.radians((hue1 + turn / 2) % 360)
    parts = ((-0.17, 1, 30), (0.24, 2, 0), (0.32, 3, -6), (-0.2, 4, 63))
    weight = 1 + sum(share * math.cos(times * hue - math.radians(shift)) for share, times, shift in parts)
    off = (light - 50) ** 2
    by_light = (light2 - light1) / (1 + 0.015 * off / math.sqrt(20 + off))
    by_chroma = (chroma2 - chroma1) / (1 + 0.045 * chroma)
    by_hue = 2 * math.sqrt(chroma1 * chroma2) * math.sin(math.radians(turn / 2)) / (1 + 0.015 * chroma * weight)
    blue = math.radians(60 * math.exp(-(((math.degrees(hue) - 275) / 25) ** 2)))
    turned = -2 * math.sqrt(chroma**7 / (chroma**7 + 25**7)) * math.sin(blue)
    return math.sqrt(by_light**2 + by_chroma**2 + by_hue**2 + turned * by_chroma * by_hue)
