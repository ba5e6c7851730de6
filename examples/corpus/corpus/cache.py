"""What sites have answered, kept on disk: one file per address, a line of JSON and then the body."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from corpus.files import write_whole

FORMAT = 1


@dataclass(frozen=True)
class Answer:
    """What a site said for one address. `fetched` is in seconds since 1970."""

    address: str
    status: int
    fetched: float
    content_type: str = ""
    location: str = ""
    """Where a redirect leads, as it was sent."""
    etag: str = ""
    last_modified: str = ""
    larger_than: int = 0
    """Not 0: the page was larger than so many bytes, and its body was not kept."""
    body: bytes = b""


class Cache:
    """Answers by address. An answer that can't be read counts as none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, address: str) -> Path:
        return self.folder / f"{hashlib.sha256(address.encode()).hexdigest()[:32]}.page"

    def get(self, address: str) -> Answer | None:
        try:
            head, _, body = self.path(address).read_bytes().partition(b"\n")
            fields = json.loads(head)
            if fields.pop("format") != FORMAT or fields.pop("size") != len(body) or fields["address"] != address:
                return None
            return Answer(**fields, body=body)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def put(self, answer: Answer) -> None:
        fields = {"format": FORMAT, "size": len(answer.body), **asdict(replace(answer, body=b""))}
        del fields["body"]
        write_whole(self.path(answer.address), json.dumps(fields).encode() + b"\n" + answer.body)
