"""The body of the request `submit`: the spec of a run, and what is handed over with it."""

from __future__ import annotations

import json
import struct
from typing import Dict, Mapping, Optional, Tuple

from .archive import MOST_IMAGE, Grant, ImageAccess
from .records import BadRecord, Record, encode, from_json
from .spec import IMAGE_NAME, MOST_BYTES, PRINTABLE, RunSpec, SpecError, check_variables, parse_json, require
from .tree import is_digest
from .webhooks import NOBODY, BadAddress, Webhooks, decode_webhooks, encode_webhooks


class Submission(Record):
    """The body of the request `submit`: the spec, the values of the user's variables, for a spec with a bucket the
    grant and what may be done with `images` there, for a later attempt the manifest of what the earlier ones `left`,
    for a spec that names who gets word the `webhooks`, and the source's manifest, each but the last with its length
    before it (u32). Without a grant the run waits for one before it ends. What was left lies over the source in the
    work tree, and counts as new like all that is not in the source."""

    spec: RunSpec
    values: Mapping[str, str]
    source: bytes
    grant: Optional[Grant] = None
    left: bytes = b""
    images: Tuple[ImageAccess, ...] = ()
    webhooks: Webhooks = NOBODY

    def encode(self) -> bytes:
        """Raises `SpecError`."""
        parts = [self.spec.encode(), encode_values(self.values)]
        require(bool(self.spec.bucket) or not (self.grant or self.images), "a grant without a bucket")
        require(not self.left or self.spec.attempt > 1, "what was left by earlier attempts, of which there are none")
        if self.spec.bucket:
            parts += [encode(self.grant), encode(self.images)]
        if self.spec.attempt > 1:
            parts.append(self.left)
        require(set(self.webhooks.addresses) <= set(self.spec.notify), "an address that the spec does not name")
        if self.spec.notify:
            try:
                parts.append(encode_webhooks(self.webhooks))
            except BadAddress as error:
                raise SpecError(str(error))
        return b"".join(_LENGTH.pack(len(part)) + part for part in parts) + self.source

    @classmethod
    def decode(cls, body: bytes) -> "Submission":
        """Raises `SpecError`."""
        part, rest = _part(body)
        spec = RunSpec.decode(part)
        values, source = _part(rest)
        grant, left, images = None, b"", ()  # type: Optional[Grant], bytes, Tuple[ImageAccess, ...]
        if spec.bucket:
            part, source = _part(source)
            grant = decode_grant(part)
            part, source = _part(source)
            images = decode_images(part)
        if spec.attempt > 1:
            left, source = _part(source, least=0)  # there may be nothing
        webhooks = NOBODY
        if spec.notify:
            part, source = _part(source)
            try:
                webhooks = decode_webhooks(part)
            except BadAddress as error:
                raise SpecError(str(error))
        return cls(spec, decode_values(values), source, grant, left, images, webhooks)


_LENGTH = struct.Struct("!I")


def _part(body: bytes, least: int = 1) -> Tuple[bytes, bytes]:
    size = _LENGTH.size
    length = _LENGTH.unpack(body[:size])[0] if len(body) >= size else -1
    if not least <= length <= min(MOST_BYTES, len(body) - size):
        raise SpecError("a spec of %d bytes where %d bytes came" % (length, len(body)))
    return body[size : size + length], body[size + length :]


def encode_values(values: Mapping[str, str]) -> bytes:
    """The values of the user's variables as JSON. Raises `SpecError`."""
    return json.dumps(check_variables(values)).encode()


def decode_values(data: bytes) -> Dict[str, str]:
    """Raises `SpecError`."""
    return check_variables(parse_json(data))


def decode_grant(data: bytes) -> Optional[Grant]:
    """Raises `SpecError`."""
    record = parse_json(data)
    try:
        return None if record is None else check_grant(from_json(Grant, record))
    except BadRecord:
        raise SpecError("a grant that can't be read")


def check_grant(grant: Grant) -> Grant:
    """Itself. Raises `SpecError`, which names no field's value: all of them are secrets."""
    require(grant.url.startswith(("https://", "http://")), "the address of a grant is not one of HTTP")
    require(bool(grant.prefix), "a grant without a prefix")
    texts = [grant.url, grant.prefix, *grant.fields, *grant.fields.values()]
    require(all(map(PRINTABLE.match, texts)), "a grant with a character that can't be")
    return grant


def decode_images(data: bytes) -> Tuple[ImageAccess, ...]:
    """Raises `SpecError`, which names no field's value: many of them are secrets."""
    records = parse_json(data)
    require(isinstance(records, list), "the images are not a list")
    try:
        images = tuple(from_json(ImageAccess, record) for record in records)
    except BadRecord:
        raise SpecError("the access to an image that can't be read")
    for access in images:
        require(bool(IMAGE_NAME.match(access.image)), "the name of an image that can't be one")
        if access.grant is not None:
            check_grant(access.grant)
        takes = [take for part in access.stored for take in part.takes]
        for take in takes:
            require(is_digest(take.digest) and take[:2] == takes[0][:2], "parts of several images")
            require(min(take[1:]) >= 0, "a part of an image that can't be one")
        if access.stored:
            size = sum(take.length for take in takes)
            require(0 < size <= MOST_IMAGE and size == takes[0].size, "an image that is not as long as its parts")
    return images
