"""How far a run is, kept up to date point by point."""

from __future__ import annotations

import math
from collections import deque
from typing import Collection, Deque, Dict, List, Optional, Tuple

from ..shared.measured import SHOWN, SPARK, Progress, Series, direction, number, rank

WINDOW, FEW = 60.0, 20
"""Seconds, or steps where these take longer, over which the rate is measured."""


class Summary:
    """Of the series by their numbers. It holds some numbers a series, however many points there are."""

    def __init__(self) -> None:
        self._series: Dict[int, _Series] = {}
        self._marks: Deque[Tuple[float, float]] = deque()
        """(time, largest step so far), not more than one a second."""

    def count(self, series: int) -> int:
        """Points of a series so far."""
        return self._series[series].points if series in self._series else 0

    def add(self, series: int, name: str, step: float, time: float, value: float) -> None:
        if series not in self._series:
            self._series[series] = _Series(name)
        self._series[series].add(step, value)
        self.mark(step, time)

    def mark(self, step: float, time: float) -> None:
        """The run is at that step. Of those that are counted in several ways the largest counts."""
        if math.isnan(step) or self._marks and step <= self._marks[-1][1]:
            return
        if len(self._marks) > 1 and time - self._marks[-2][0] < 1:
            self._marks.pop()
        self._marks.append((time, step))
        while len(self._marks) > FEW and self._marks[0][0] < time - WINDOW:
            self._marks.popleft()

    def unmark(self) -> None:
        """The steps so far were counted in another way."""
        self._marks.clear()

    def progress(self, total: Optional[float], hidden: Collection[int] = ()) -> Progress:
        """`total`: steps of the whole run, if that is known. Series that are `hidden` are left out."""
        shown = [series for number, series in self._series.items() if number not in hidden]
        shown.sort(key=lambda series: rank(series.name))
        at, step = self._marks[-1] if self._marks else (0.0, None)
        if total is not None and (number(total) is None or total <= 0 or (step is not None and step > total)):
            total = None  # it counts something else, such as epochs
        return Progress(step, total, self._rate(), at, [series.summary() for series in shown[:SHOWN]])

    def _rate(self) -> Optional[float]:
        if len(self._marks) < 2:
            return None
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return number(_short((last - first) / (ended - began))) if ended > began else None


class _Series:
    def __init__(self, name: str) -> None:
        self.name, self.points, self.direction = name, 0, direction(name)
        self.first = self.last = self.step = self.least = self.most = self.least_at = self.most_at = math.nan
        self.spark: List[float] = []
        self.stride = 1
        """Every so manieth point is in the spark, which has up to twice as many values as are shown."""

    def add(self, step: float, value: float) -> None:
        if not self.points:
            self.first = value
        self.last, self.step = value, step
        if number(value) is not None:
            if not value >= self.least:
                self.least, self.least_at = value, step
            if not value <= self.most:
                self.most, self.most_at = value, step
            if self.points % self.stride == 0:
                self.spark.append(value)
                if len(self.spark) >= 2 * SPARK:
                    del self.spark[1::2]
                    self.stride *= 2
        self.points += 1

    def summary(self) -> Series:
        best, best_step = (self.most, self.most_at) if self.direction > 0 else (self.least, self.least_at)
        known = self.direction != 0
        spark = self.spark + [self.last] if (self.points - 1) % self.stride else self.spark
        spark = [value for value in spark if number(value) is not None]
        if len(spark) > SPARK:
            spark = [spark[at * (len(spark) - 1) // (SPARK - 1)] for at in range(SPARK)]
        return Series(
            self.name,
            self.points,
            number(self.first),
            number(self.last),
            number(self.step),
            number(self.least),
            number(self.most),
            number(best) if known else None,
            number(best_step) if known else None,
            [_short(value) for value in spark],
        )


def _short(value: float) -> float:
    """With four digits: a listing of runs has many such numbers."""
    return float("%.4g" % value)
