"""`bring`: a host fetches contents from a bucket by itself, whatever the server and the link do."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import json
import os
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from remoterun.agent.shared.bucket import BringLine, ContentRange, LargeContent, SignedObject, index_entries, packed
from remoterun.agent.shared.protocol import Link, RemoteError
from remoterun.agent.shared.records import to_json
from remoterun.agent.store import bucket_download, http_client
from remoterun.agent.store.home import Home
from tests.bucket_server import BucketServer, Handler
from tests.workshop import served, sha256, until

SMALL = [b"content %d" % number * number for number in range(200)]
LARGE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(200_000))
CHUNK = 1 << 20


@pytest.fixture
def bucket() -> Iterator[BucketServer]:
    server = BucketServer()
    yield server
    server.close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(str(tmp_path / "home"))


@pytest.fixture
def link(home: Home) -> Iterator[Link]:
    with served(home) as link:
        yield link


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_download, "SHORTEST", 0.01)
    monkeypatch.setattr(bucket_download, "LONGEST", 0.05)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def pack_of(bucket: BucketServer, contents: list[bytes]) -> SignedObject:
    pack = packed((sha256(content), content) for content in contents)
    bucket.objects["packs/" + pack.name] = pack.data
    return SignedObject(bucket.signed("packs/" + pack.name), list(index_entries(pack.listing)))


def large_of(bucket: BucketServer, content: bytes, chunk: int = CHUNK) -> LargeContent:
    parcels = []
    for start in range(0, len(content), chunk):
        part = content[start : start + chunk]
        bucket.objects["blobs/" + sha256(part)] = part
        parcels.append(SignedObject(bucket.signed("blobs/" + sha256(part)), [ContentRange(sha256(part), 0, len(part))]))
    return LargeContent(sha256(content), len(content), parcels)


def bring(link: Link, *lines: BringLine, heard: threading.Event | None = None) -> tuple[int, list[int]]:
    """(contents that were fetched, the bytes that it told of meanwhile). `heard` is set when it has told of some."""
    stream = link.open("bring")
    body = b"".join(json.dumps(to_json(line)).encode() + b"\n" for line in lines)
    for start in range(0, len(body), 10_000):
        stream.send(body[start : start + 10_000])
    stream.end()
    told = []
    for frame in stream:
        told.append(frame.header["at"])
        if heard is not None:
            heard.set()
    return stream.result["blobs"], told


def refusal(link: Link, *lines: BringLine) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        bring(link, *lines)
    return caught.value


def content_of(home: Home, digest: str) -> bytes:
    path = Path(home.blobs.path(digest))
    assert path.stat().st_mode & 0o777 == 0o444
    return path.read_bytes()


def nothing_is_left(home: Home) -> bool:
    return os.listdir(home.tmp) == [] and os.listdir(home.partial) == []


class TestWhatComes:
    def test_contents_of_a_pack(self, link: Link, home: Home, bucket: BucketServer) -> None:
        parcel = pack_of(bucket, SMALL)
        assert bring(link, BringLine(parcel=[parcel]))[0] == len(set(parcel.takes))
        assert all(content_of(home, sha256(content)) == content for content in SMALL)
        assert len(bucket.asked) == 1 and nothing_is_left(home)

    def test_only_what_is_not_here(self, link: Link, home: Home, bucket: BucketServer) -> None:
        large = large_of(bucket, LARGE)
        for content in (*SMALL, LARGE):
            home.blobs.put(content)
        assert bring(link, BringLine([pack_of(bucket, SMALL)], [large]))[0] == 0
        assert bucket.asked == []

    def test_a_few_of_a_pack_are_asked_for_by_their_places(self, link: Link, home: Home, bucket: BucketServer) -> None:
        contents = [bytes([number]) * bucket_download.GAP for number in range(20)]
        parcel = pack_of(bucket, contents)
        few = SignedObject(parcel.url, [parcel.takes[at] for at in (17, 3, 2)])
        assert bring(link, BringLine([few]))[0] == 3
        assert len(bucket.asked) == 2  # 2 and 3 lie side by side
        assert content_of(home, sha256(contents[17])) == contents[17]

    def test_a_large_one_of_chunks(self, link: Link, home: Home, bucket: BucketServer) -> None:
        assert bring(link, BringLine(large=[large_of(bucket, LARGE)]))[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE and nothing_is_left(home)

    def test_one_of_some_size_that_is_an_object(self, link: Link, home: Home, bucket: BucketServer) -> None:
        (parcel,) = large_of(bucket, LARGE, len(LARGE)).parcels
        assert bring(link, BringLine([parcel]))[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE and nothing_is_left(home)

    def test_connections_are_used_again(self, link: Link, bucket: BucketServer) -> None:
        for content in SMALL:
            bucket.objects["blobs/" + sha256(content)] = content
        lines = [
            BringLine([SignedObject(bucket.signed("blobs/" + sha256(one)), [ContentRange(sha256(one), 0, len(one))])])
            for one in SMALL
        ]
        bring(link, *lines)
        assert len(bucket.asked) == len(SMALL) - 1  # the empty one is known
        assert bucket.connections <= bucket_download.CONNECTIONS

    def test_it_tells_how_far_it_is(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket_download, "TICK", 0.01)
        heard = threading.Event()
        bucket.fail(1, lambda handler: not heard.wait(60))
        told = bring(link, BringLine([pack_of(bucket, SMALL)]), heard=heard)[1]
        assert told == sorted(told)

    def test_a_lease_protects_what_has_come(self, link: Link, home: Home, bucket: BucketServer) -> None:
        bring(link, BringLine([pack_of(bucket, [b"kept"])]))
        (lease,) = os.listdir(home.leases)
        assert bytes.fromhex(sha256(b"kept")) in Path(home.leases, lease).read_bytes()


class TestFaults:
    def test_a_busy_server_and_a_cut_link(self, link: Link, home: Home, bucket: BucketServer) -> None:
        bucket.fail(3, lambda handler: handler.refuse(503, "SlowDown"))
        bucket.fail(3, Handler.cut)
        assert bring(link, BringLine([pack_of(bucket, SMALL)], [large_of(bucket, LARGE)]))[0] > 1
        assert content_of(home, sha256(LARGE)) == LARGE

    def test_it_goes_on_where_it_was_cut(self, link: Link, home: Home, bucket: BucketServer) -> None:
        starts: list[int] = []

        def half(handler: Handler) -> bool:
            start, end = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
            starts.append(start)
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{end}/{len(LARGE)}")
            handler.send_header("Content-Length", str(end + 1 - start))
            handler.end_headers()
            handler.wfile.write(LARGE[start : start + 1_000_000])
            return handler.cut()

        bucket.fail(4, half)
        (parcel,) = large_of(bucket, LARGE, len(LARGE)).parcels
        assert bring(link, BringLine([parcel]))[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE
        assert starts == sorted(set(starts)) and starts[1] > 0

    def test_an_address_that_has_expired(self, link: Link, home: Home, bucket: BucketServer) -> None:
        parcel = pack_of(bucket, SMALL)
        bucket.expiries = dict.fromkeys(bucket.expiries, 0.0)
        error = refusal(link, BringLine([parcel]))
        assert error.code == "expired" and "Request has expired" in error.message
        assert "Signature" not in error.message and nothing_is_left(home)

    def test_what_has_come_of_a_large_one_need_not_come_again(
        self, link: Link, home: Home, bucket: BucketServer
    ) -> None:
        large = large_of(bucket, LARGE)
        key = "blobs/" + large.parcels[-1].takes[0].digest
        last = bucket.objects.pop(key)
        error = refusal(link, BringLine(large=[large]))
        assert error.code == "not_found" and key in error.message
        bucket.objects[key] = last
        before = len(bucket.asked)
        assert bring(link, BringLine(large=[large]))[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE
        assert len(bucket.asked) - before < len(large.parcels)

    def test_nobody_is_there(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket_download, "TRIES", 2)
        parcel = pack_of(bucket, SMALL)
        bucket.close()
        assert refusal(link, BringLine([parcel])).code == "not_fetched"

    def test_a_disk_without_room(
        self, link: Link, home: Home, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(home.reserve), "room", lambda _: 1000)
        assert refusal(link, BringLine([pack_of(bucket, SMALL)])).code == "disk_full"

    def test_it_is_given_up(self, link: Link, home: Home, bucket: BucketServer) -> None:
        """A client that goes away: the threads end, and hold nothing."""
        waiting = threading.Event()
        bucket.faults.append(lambda handler: waiting.wait(60) and False)
        stream = link.open("bring")
        stream.send(json.dumps(to_json(BringLine([pack_of(bucket, SMALL)]))).encode() + b"\n")
        until(lambda: bucket.asked)
        stream.cancel()
        waiting.set()
        until(lambda: not [thread for thread in threading.enumerate() if "brings" in thread.name])
        until(lambda: nothing_is_left(home))


class TestHostileServers:
    def test_other_bytes_than_were_asked_for(self, link: Link, home: Home, bucket: BucketServer) -> None:
        parcel = pack_of(bucket, SMALL)
        (key,) = bucket.objects
        bucket.objects[key] = bytes(len(bucket.objects[key]))
        assert refusal(link, BringLine([parcel])).code == "damaged"
        large = large_of(bucket, LARGE)
        bucket.objects["blobs/" + large.parcels[3].takes[0].digest] = bytes(CHUNK)
        assert refusal(link, BringLine(large=[large])).code == "damaged"
        assert not home.blobs.has(sha256(LARGE)) and not home.blobs.has(sha256(SMALL[7]))

    def test_chunks_that_are_not_the_whole(self, link: Link, home: Home, bucket: BucketServer) -> None:
        large = large_of(bucket, LARGE)._replace(digest=sha256(b"another"))
        assert refusal(link, BringLine(large=[large])).code == "damaged"
        assert not home.blobs.has(large.digest) and nothing_is_left(home)

    def test_a_body_without_an_end(self, link: Link, home: Home, bucket: BucketServer) -> None:
        """It is read as far as was asked for."""
        sent: list[int] = []

        def endless(handler: Handler) -> bool:
            handler.send_response(200)
            handler.end_headers()
            try:
                while True:
                    sent.append(handler.wfile.write(b"x" * 65536))
            except OSError:
                return handler.cut()

        bucket.faults.append(endless)
        digest = sha256(b"x" * 1000)
        assert bring(link, BringLine([SignedObject(bucket.signed("a"), [ContentRange(digest, 0, 1000)])]))[0] == 1
        until(lambda: len(sent) and not [one for one in threading.enumerate() if "brings" in one.name])
        assert sum(sent) < 100 << 20

    def test_an_error_without_an_end(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        def endless(handler: Handler) -> bool:
            handler.send_response(403)
            handler.end_headers()
            try:
                while True:
                    handler.wfile.write(b"<Code>" * 10000)
            except OSError:
                return handler.cut()

        bucket.faults.append(endless)
        assert refusal(link, BringLine([pack_of(bucket, SMALL)])).code == "refused"

    def test_a_byte_now_and_then(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_client, "SILENCE", 0.5)
        monkeypatch.setattr(bucket_download, "TRIES", 1)
        ended = threading.Event()

        def drip(handler: Handler) -> bool:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nx-a: ")
            while not ended.wait(0.05):
                try:
                    handler.wfile.write(b"a")
                except OSError:
                    break
            return handler.cut()

        bucket.faults.append(drip)
        assert refusal(link, BringLine([pack_of(bucket, SMALL[1:2])])).code == "not_fetched"
        ended.set()

    @pytest.mark.parametrize("where", ["file:///etc/passwd", "http://127.0.0.1:9/", "/mine/elsewhere"])
    def test_no_redirect_is_followed(self, link: Link, bucket: BucketServer, where: str) -> None:
        bucket.faults.append(lambda handler: handler.refuse(307, "TemporaryRedirect", Location=where))
        error = refusal(link, BringLine([pack_of(bucket, SMALL)]))
        assert error.code == "refused" and "not followed" in error.message and len(bucket.asked) == 1

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            (b"{", "bad_stream"),
            (b"[" * 100_000, "bad_stream"),
            (b'{"parcel": [{"url": "http://a/", "takes": [{"digest": "x", "offset": 0, "length": 1}]}]}', "bad_stream"),
            (b'{"large": [{"digest": "%s", "size": 5, "parcels": []}]}' % (b"a" * 64), "bad_stream"),
        ],
    )
    def test_a_line_that_can_not_be(self, link: Link, line: bytes, code: str) -> None:
        stream = link.open("bring")
        stream.send(line)
        stream.end()
        with pytest.raises(RemoteError) as caught:
            stream.finish(60)
        assert caught.value.code == code

    @pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/a", "http://", "http://a b/", "http://[/"])
    def test_only_addresses_of_http(self, link: Link, url: str) -> None:
        error = refusal(link, BringLine([SignedObject(url, [ContentRange("ab" * 32, 0, 5)])]))
        assert error.code == "refused"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, with its key, that vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


class TestTLS:
    @pytest.fixture
    def bucket(self, certificate: Path) -> Iterator[BucketServer]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = BucketServer(context)
        yield server
        server.close()

    @pytest.fixture(autouse=True)
    def trust(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        http_client._trust.cache_clear()
        yield
        http_client._trust.cache_clear()

    def test_all_of_it(self, link: Link, home: Home, bucket: BucketServer) -> None:
        bucket.fail(2, Handler.cut)
        assert bring(link, BringLine([pack_of(bucket, SMALL)], [large_of(bucket, LARGE)]))[0] > 1
        assert content_of(home, sha256(LARGE)) == LARGE

    def test_a_server_that_nobody_vouches_for(
        self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bucket_download, "TRIES", 1)
        monkeypatch.delenv("SSL_CERT_FILE")
        http_client._trust.cache_clear()
        error = refusal(link, BringLine([pack_of(bucket, SMALL)]))
        assert error.code == "not_fetched" and "CERTIFICATE_VERIFY_FAILED" in error.message
        assert bucket.asked == []

    def test_through_the_tunnel_of_a_proxy(
        self, link: Link, home: Home, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = BucketServer()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "elsewhere")
        assert bring(link, BringLine([pack_of(bucket, SMALL)]))[0] > 1
        assert proxy.asked == [("CONNECT", f"127.0.0.1:{bucket.port}")] and len(bucket.asked) == 1
        proxy.close()

    def test_a_server_that_is_silent(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_client, "SILENCE", 0.5)
        monkeypatch.setattr(bucket_download, "TRIES", 1)
        ended = threading.Event()
        bucket.faults.append(lambda handler: ended.wait(10) or handler.cut())
        assert refusal(link, BringLine([pack_of(bucket, SMALL[1:2])])).code == "not_fetched"
        ended.set()


class TestProxies:
    def test_one_of_the_environment_is_asked(
        self, link: Link, home: Home, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{bucket.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        seen: list[Any] = []

        def proxy(handler: Handler) -> bool:
            seen.append((handler.path, handler.headers["Proxy-Authorization"]))
            handler.path = handler.path.removeprefix("http://bucket.invalid")
            return False

        bucket.faults.append(proxy)
        parcel = pack_of(bucket, [b"by a proxy"])
        parcel = parcel._replace(url=parcel.url.replace(f"127.0.0.1:{bucket.port}", "bucket.invalid"))
        assert bring(link, BringLine([parcel]))[0] == 1
        assert seen == [(parcel.url, "Basic bWU6c2VjcmV0")]

    def test_one_that_is_not_there(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket_download, "TRIES", 1)
        monkeypatch.setenv("https_proxy", f"127.0.0.1:{bucket.port}")
        bucket.close()
        error = refusal(link, BringLine([SignedObject("https://bucket.invalid/a", [ContentRange("ab" * 32, 0, 5)])]))
        assert error.code == "not_fetched" and "refused" in error.message

    def test_one_that_can_not_be(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bucket_download, "TRIES", 1)
        monkeypatch.setenv("http_proxy", "http://proxy:none")
        error = refusal(link, BringLine([pack_of(bucket, SMALL)]))
        assert error.code == "not_fetched" and "no such port" in error.message
