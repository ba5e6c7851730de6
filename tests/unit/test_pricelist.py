"""AWS's Price List, as what it said is saved in the home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from remoterun.providers.aws import pricelist
from remoterun.providers.base import Offer


class PriceList:
    """Answers in AWS's form, as calls to it do."""

    def __init__(self) -> None:
        self.asked = 0

    def pages(self, *_: Any, **__: Any) -> list[str]:
        self.asked += 1
        part = {"unit": "Hrs", "pricePerUnit": {"USD": "2.5"}}
        return [json.dumps({}), json.dumps({"terms": {"OnDemand": {"a": {"priceDimensions": {"b": part}}}}})]


@pytest.mark.parametrize(
    "saved", ["", "[]", "null", "{", '{"NAME": "x"}', '{"NAME": [NaN, "2026-11-30"]}', '{"NAME": [0]}']
)
def test_what_was_saved_is_believed_where_it_is_a_price(
    tmp_path: Path, saved: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pricelist.time, "strftime", lambda _: "2026-11-30")
    (tmp_path / "prices.json").write_text(saved.replace("NAME", "eu-central-1 g6.xlarge in 2026-11"))
    calls, offers = PriceList(), [Offer("g6.xlarge", "eu-central-1")]
    for _ in range(2):
        (offer,) = pricelist.priced(calls, tmp_path, offers)  # type: ignore[arg-type]
        assert (offer.price, offer.priced, calls.asked) == (2.5, "2026-11-30", 1)
