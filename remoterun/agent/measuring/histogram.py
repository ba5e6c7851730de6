"""The percentiles of a histogram that stand for it: 5, 50 and 95."""

from __future__ import annotations

import struct
from typing import Iterator, Sequence, Tuple

PERCENTILES = (("/p05", 0.05), ("/p50", 0.5), ("/p95", 0.95))


def percentiles(
    lefts: Sequence[float], rights: Sequence[float], counts: Sequence[float]
) -> Iterator[Tuple[str, float]]:
    """(end of the name, value) of each; none of a histogram without values. Within a bin they lie evenly."""
    for name, share in PERCENTILES:
        rest = share * sum(counts)
        for left, right, count in zip(lefts, rights, counts):  # noqa: B905 - Python 3.8
            if 0 < count >= rest:
                yield name, left + (right - left) * rest / count
                break
            rest -= count


def doubles(data: bytes) -> Sequence[float]:
    return struct.unpack("<%dd" % (len(data) // 8), data[: len(data) // 8 * 8])
