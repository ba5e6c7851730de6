"""The body of the request `submit`: the spec of a run, and what is handed over with it."""

from __future__ import annotations

import struct
from typing import Any, Dict, Mapping, Optional, Tuple

from .archive import MOST_IMAGE, Grant, ImageAccess
from .records import Record, encode, from_json, parse
from .spec import IMAGE_NAME, MOST_BYTES, PRINTABLE, RunSpec, SpecError, check_variables, require
from .tree import is_digest
from .webhooks import MOST_ADDRESSES, NOBODY, BadAddress, Webhooks, check_address


class Submission(Record):
    """A run that is handed over."""

    spec: RunSpec
    values: Mapping[str, str]
    """Of the user's variables."""
    source: bytes
    """Its manifest."""
    grant: Optional[Grant] = None
    """Without it a run with a bucket waits for one before it ends."""
    left: bytes = b""
    """The manifest of what the attempts before this one left: it lies over the source in the work tree, and counts as
    new like all that is not in the source."""
    images: Tuple[ImageAccess, ...] = ()
    """What may be done with images in the archive."""
    webhooks: Webhooks = NOBODY
    """The addresses that the spec names."""

    def encode(self) -> bytes:
        """The spec, all else but the two manifests, and what was left, each with its length (u32) before it; then the
        source. Raises `SpecError`."""
        self._check()
        rest = {name: getattr(self, name) for name in _REST}
        parts = [self.spec.encode(), encode(rest), self.left]
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts) + self.source

    @classmethod
    def decode(cls, body: bytes) -> "Submission":
        """Raises `SpecError`, which names no value: most are secrets."""
        part, body = _part(body)
        spec = RunSpec.decode(part)
        part, body = _part(body)
        left, source = _part(body, least=0)
        try:
            rest = parse(part)
            values, grant, images, webhooks = (from_json(kind, rest[name]) for name, kind in _REST.items())
        except (ValueError, LookupError, TypeError):
            raise SpecError("what comes with a spec can't be read") from None
        if grant is not None:
            check_grant(grant)
        check_images(images)
        return cls(spec, values, source, grant, left, images, webhooks)._check()

    def _check(self) -> "Submission":
        spec = self.spec
        check_variables(self.values)
        require(bool(spec.bucket) or not (self.grant or self.images), "a grant without a bucket")
        require(not self.left or spec.attempt > 1, "what was left by earlier attempts, of which there are none")
        require(set(self.webhooks.addresses) <= set(spec.notify), "an address that the spec does not name")
        few = len(self.webhooks.addresses) <= MOST_ADDRESSES
        require(few, "%d addresses get word of a run at the most" % MOST_ADDRESSES)
        try:
            for url in self.webhooks.addresses.values():
                check_address(url)
        except BadAddress as error:
            raise SpecError(str(error))
        return self


_REST: Dict[str, Any] = {
    "values": Dict[str, str],
    "grant": Optional[Grant],
    "images": Tuple[ImageAccess, ...],
    "webhooks": Webhooks,
}
"""The fields that go as JSON beside the spec, with their types."""
_LENGTH = struct.Struct("!I")


def _part(body: bytes, least: int = 1) -> Tuple[bytes, bytes]:
    size = _LENGTH.size
    length = _LENGTH.unpack(body[:size])[0] if len(body) >= size else -1
    if not least <= length <= len(body) - size or (least and length > MOST_BYTES):
        raise SpecError("a spec of %d bytes where %d bytes came" % (length, len(body)))
    return body[size : size + length], body[size + length :]


def check_grant(grant: Grant) -> Grant:
    """Itself. Raises `SpecError`, which names no field's value: all of them are secrets."""
    is_folder = (grant.carried or grant.folder.startswith("/")) and ".." not in grant.prefix.split("/")
    is_web = grant.url.startswith(("https://", "http://"))
    require(is_folder or is_web, "the address of a grant is not one of HTTP, nor a folder")
    require(bool(grant.prefix), "a grant without a prefix")
    texts = [grant.url, grant.prefix, grant.bucket, grant.region, grant.folder, *grant.fields, *grant.fields.values()]
    require(all(map(PRINTABLE.match, texts)), "a grant with a character that can't be")
    return grant


def check_images(images: Tuple[ImageAccess, ...]) -> Tuple[ImageAccess, ...]:
    """Themselves. Raises `SpecError`, which names no field's value: many of them are secrets."""
    for access in images:
        require(bool(IMAGE_NAME.match(access.image)), "the name of an image that can't be one")
        if access.grant is not None:
            check_grant(access.grant)
        contents = {(take.digest, take.size) for part in access.stored for take in part.takes}
        require(len(contents) == bool(access.stored), "parts that are not of one image")
        require(
            all(is_digest(digest) and 0 < size <= MOST_IMAGE for digest, size in contents), "an image that can't be"
        )
    return images
