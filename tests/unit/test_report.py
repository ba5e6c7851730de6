"""The pictures of a report: down-sampled curves, and round numbers beside them."""

from __future__ import annotations

import math
import re

from remoterun.client.exports.report import MOST_POINTS, chart, thinned


def test_a_curve_keeps_its_peaks() -> None:
    points = [(float(step), math.sin(step / 500)) for step in range(100_000)]
    points[4321] = (4321.0, 9.0)
    points[4322] = (4322.0, -9.0)
    found = thinned(points)
    assert len(found) <= MOST_POINTS and {points[4321], points[4322]} <= set(found)
    assert found == sorted(found) and set(found) <= set(points)
    assert thinned(points[:MOST_POINTS]) == points[:MOST_POINTS]


def test_numbers_beside_a_chart() -> None:
    shown = chart("loss", {3: [(0.0, 0.12), (950.0, 3.9)]})
    assert re.findall(r'"end">(.*?)<', shown) == ["1", "2", "3"]
    assert re.findall(r'"middle">(.*?)<', shown) == ["0", "200", "400", "600", "800"]


def test_odd_curves() -> None:
    assert chart("x", {1: [], 2: []}) == ""
    small, large = 5e-324, 1e99
    for odd in ([(5.0, 0.0)], [(0.0, 7.0)] * 2, [(1e18, large), (1e18 + 512, -large)], [(0.0, small), (1.0, 0.0)]):
        drawn = chart('"<&', {1: odd, 2: []})
        points = re.findall(r"([\d.-]+),([\d.-]+)", re.findall(r'points="(.*?)"', drawn)[0])
        assert len(points) == len(odd) and all(0 <= float(number) <= 560 for pair in points for number in pair), odd
        assert "&quot;&lt;&amp;" in drawn and "<&" not in drawn
