"""`download`: a host fetches contents from an archive by itself, whatever the server and the link do."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
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

from remoterun.agent.shared.archive import SignedObject, Take
from remoterun.agent.shared.protocol import Link, RemoteError
from remoterun.agent.shared.records import encode
from remoterun.agent.store import http_client, objects
from remoterun.agent.store.home import Home
from tests.bucket_server import BucketServer, Handler
from tests.workshop import call, own_port, served, sha256, until

SMALL = [b"content %d" % number * number for number in range(200)]
LARGE = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(200_000))
PART = 1 << 20


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
    monkeypatch.setattr(objects, "SHORTEST", 0.01)
    monkeypatch.setattr(objects, "LONGEST", 0.05)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


def whole(content: bytes, offset: int = 0) -> Take:
    return Take(sha256(content), len(content), 0, offset, len(content))


def pack_of(bucket: BucketServer, contents: list[bytes]) -> SignedObject:
    """A new object of these."""
    takes, data = [], b""
    for content in contents:
        takes.append(whole(content, len(data)))
        data += content
    bucket.objects["packs/" + sha256(data)] = data
    return SignedObject(bucket.signed("packs/" + sha256(data)), takes)


def spread(bucket: BucketServer, content: bytes, size: int = PART) -> list[SignedObject]:
    """A content over new objects; the last one has some bytes before it that are not its own."""
    parts = []
    for start in range(0, len(content), size):
        part = content[start : start + size]
        key = f"packs/{sha256(part)}"
        before = b"another" if start + size >= len(content) else b""
        bucket.objects[key] = before + part
        take = Take(sha256(content), len(content), start, len(before), len(part), "" if before else sha256(part))
        parts.append(SignedObject(bucket.signed(key), [take]))
    return parts


def download_all(link: Link, *lines: SignedObject, heard: threading.Event | None = None) -> tuple[int, list[int]]:
    """(contents that were fetched, the bytes that were reported meanwhile). `heard` is set at the first report."""
    stream = link.open("download")
    for line in lines:
        stream.send(encode(line))
    stream.end()
    reported = []
    for frame in stream:
        reported.append(frame.header["at"])
        if heard is not None:
            heard.set()
    return stream.result["blobs"], reported


def refusal(link: Link, *lines: SignedObject) -> RemoteError:
    with pytest.raises(RemoteError) as caught:
        download_all(link, *lines)
    return caught.value


def content_of(home: Home, digest: str) -> bytes:
    path = Path(home.blobs.path(digest))
    assert path.stat().st_mode & 0o777 == 0o444
    return path.read_bytes()


def nothing_is_left(home: Home) -> bool:
    return os.listdir(home.tmp) == [] and os.listdir(home.partial) == []


class TestWhatComes:
    def test_contents_of_a_pack(self, link: Link, home: Home, bucket: BucketServer) -> None:
        stored = pack_of(bucket, SMALL)
        assert download_all(link, stored)[0] == len(set(SMALL)) - 1  # the empty one is no object's
        assert all(content_of(home, sha256(content)) == content for content in SMALL)
        assert len(bucket.asked) == 1 and nothing_is_left(home)

    def test_only_what_is_not_here(self, link: Link, home: Home, bucket: BucketServer) -> None:
        large = spread(bucket, LARGE)
        for content in (*SMALL, LARGE):
            home.blobs.put(content)
        assert download_all(link, pack_of(bucket, SMALL), *large)[0] == 0
        assert bucket.asked == []

    def test_what_one_address_gives_is_asked_for_at_once(self, link: Link, home: Home, bucket: BucketServer) -> None:
        """Also where the home has some of it: an address may give all of it or nothing."""
        wanted: list[str] = []
        bucket.faults.append(lambda handler: wanted.append(handler.headers["Range"]) or False)
        contents = [bytes([number]) * 1000 for number in range(20)]
        stored = pack_of(bucket, contents)
        home.blobs.put(contents[2])
        assert download_all(link, SignedObject(stored.url, [stored.takes[at] for at in (4, 3, 2)], True))[0] == 2
        assert wanted == ["bytes=2000-4999"]
        assert content_of(home, sha256(contents[4])) == contents[4]

    def test_a_large_one_over_several_objects(self, link: Link, home: Home, bucket: BucketServer) -> None:
        assert download_all(link, *spread(bucket, LARGE))[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE and nothing_is_left(home)

    def test_it_reports_its_progress(self, link: Link, bucket: BucketServer) -> None:
        heard = threading.Event()
        bucket.fail(1, lambda handler: not heard.wait(60))
        reported = download_all(link, pack_of(bucket, SMALL), heard=heard)[1]
        assert reported and reported == sorted(reported)

    def test_a_lease_protects_what_has_come(self, link: Link, home: Home, bucket: BucketServer) -> None:
        download_all(link, pack_of(bucket, [b"kept"]))
        (lease,) = os.listdir(home.leases)
        assert bytes.fromhex(sha256(b"kept")) in Path(home.leases, lease).read_bytes()


class TestFaults:
    def test_a_busy_server_and_a_cut_link(self, link: Link, home: Home, bucket: BucketServer) -> None:
        bucket.fail(3, lambda handler: handler.refuse(503, "SlowDown"))
        bucket.fail(3, Handler.cut)
        assert download_all(link, pack_of(bucket, SMALL), *spread(bucket, LARGE))[0] > 1
        assert content_of(home, sha256(LARGE)) == LARGE

    @pytest.mark.parametrize("exact", [False, True])
    def test_it_goes_on_where_it_was_cut(self, link: Link, home: Home, bucket: BucketServer, exact: bool) -> None:
        """Of an address that gives all or nothing, all is asked for again, and what has come counts."""
        starts: list[int] = []

        def half(handler: Handler) -> bool:
            start, end = map(int, handler.headers["Range"].removeprefix("bytes=").split("-"))
            starts.append(start)
            assert end == len(LARGE) - 1
            handler.send_response(206)
            handler.send_header("Content-Range", f"bytes {start}-{end}/{len(LARGE)}")
            handler.send_header("Content-Length", str(end + 1 - start))
            handler.end_headers()
            handler.wfile.write(LARGE[start : len(starts) * 1_000_000])
            return handler.cut()

        bucket.fail(4, half)
        stored = pack_of(bucket, [LARGE])._replace(exact=exact)
        assert download_all(link, stored)[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE
        assert starts == ([0] * 4 if exact else sorted(set(starts)))

    def test_an_address_that_has_expired(self, link: Link, home: Home, bucket: BucketServer) -> None:
        stored = pack_of(bucket, SMALL)
        bucket.expiries = dict.fromkeys(bucket.expiries, 0.0)
        error = refusal(link, stored)
        assert error.code == "expired" and "Request has expired" in error.message
        assert "Signature" not in error.message and nothing_is_left(home)

    def test_what_has_come_of_a_large_one_need_not_come_again(
        self, link: Link, home: Home, bucket: BucketServer
    ) -> None:
        large = spread(bucket, LARGE)
        (key,) = (key for key, data in bucket.objects.items() if data.endswith(LARGE[-100:]))
        last = bucket.objects.pop(key)
        error = refusal(link, *large)
        assert error.code == "not_found" and key in error.message
        bucket.objects[key] = last
        before = len(bucket.asked)
        assert download_all(link, *large)[0] == 1
        assert content_of(home, sha256(LARGE)) == LARGE
        assert len(bucket.asked) - before < len(large)

    def test_nobody_is_there(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objects, "READS", 2)
        stored = pack_of(bucket, SMALL)
        with own_port() as port:
            stored = stored._replace(url=stored.url.replace(f":{bucket.port}/", f":{port}/"))
            assert refusal(link, stored).code == "not_fetched"

    def test_a_disk_without_room(
        self, link: Link, home: Home, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(type(home.reserve), "room", lambda _: 1000)
        assert refusal(link, pack_of(bucket, SMALL)).code == "disk_full"

    def test_it_is_given_up(self, link: Link, home: Home, bucket: BucketServer) -> None:
        """A client that goes away: the threads end, and hold nothing."""
        waiting = threading.Event()
        bucket.faults.append(lambda handler: waiting.wait(60) and False)
        stream = link.open("download")
        stream.send(encode(pack_of(bucket, SMALL)))
        until(lambda: bucket.asked)
        stream.cancel()
        waiting.set()
        until(lambda: not [thread for thread in threading.enumerate() if "remoterun jobs" in thread.name])
        until(lambda: nothing_is_left(home))


class TestHostileServers:
    def test_other_bytes_than_were_asked_for(self, link: Link, home: Home, bucket: BucketServer) -> None:
        stored = pack_of(bucket, SMALL)
        (key,) = bucket.objects
        bucket.objects[key] = bytes(len(bucket.objects[key]))
        assert refusal(link, stored).code == "damaged"
        large = spread(bucket, LARGE)
        bucket.objects["packs/" + sha256(LARGE[3 * PART : 4 * PART])] = bytes(PART + 7)
        assert refusal(link, *large).code == "damaged"
        assert not home.blobs.has(sha256(LARGE)) and not home.blobs.has(sha256(SMALL[7]))

    def test_parts_that_are_not_the_whole(self, link: Link, home: Home, bucket: BucketServer) -> None:
        another = sha256(b"another")
        large = [SignedObject(one.url, [one.takes[0]._replace(digest=another)]) for one in spread(bucket, LARGE)]
        assert refusal(link, *large).code == "damaged"
        assert not home.blobs.has(another) and nothing_is_left(home)

    def test_a_part_that_nobody_names(self, link: Link, home: Home, bucket: BucketServer) -> None:
        assert refusal(link, *spread(bucket, LARGE)[:-1]).code == "bad_stream"
        assert not home.blobs.has(sha256(LARGE))

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
        assert download_all(link, SignedObject(bucket.signed("a"), [Take(digest, 1000, 0, 0, 1000)]))[0] == 1
        until(lambda: len(sent) and not [one for one in threading.enumerate() if "remoterun jobs" in one.name])
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
        assert refusal(link, pack_of(bucket, SMALL)).code == "refused"

    def test_a_byte_now_and_then(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(http_client, "SILENCE", 0.5)
        monkeypatch.setattr(objects, "READS", 1)
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
        assert refusal(link, pack_of(bucket, SMALL[1:2])).code == "not_fetched"
        ended.set()

    def test_no_redirect_is_followed(self, link: Link, bucket: BucketServer) -> None:
        stored = pack_of(bucket, SMALL)
        for number, where in enumerate(("file:///etc/passwd", "http://127.0.0.1:9/", "/mine/elsewhere"), 1):
            bucket.faults[:] = [lambda handler: handler.refuse(307, "TemporaryRedirect", Location=where)]  # noqa: B023
            error = refusal(link, stored)
            assert error.code == "moved" and "not followed" in error.message and len(bucket.asked) == number

    def test_a_line_that_can_not_be_read(self, link: Link) -> None:
        for line in (b"{", b"[" * 100_000, b"{}"):
            with pytest.raises(RemoteError) as caught:
                call(link, "download", line)
            assert caught.value.code == "bad_stream"

    def test_a_take_that_can_not_be(self, link: Link, bucket: BucketServer) -> None:
        five = Take("ab" * 32, 5, 0, 0, 5)
        bad = [five._replace(offset=-1), five._replace(position=4, length=2), five._replace(length=6)]
        for take in (*bad, Take("../x", 1, 0, 0, 1), Take("ab" * 32, -1, 0, 0, -1)):
            assert refusal(link, SignedObject(bucket.signed("a"), [take])).code == "bad_stream" and bucket.asked == []

    def test_only_addresses_of_http_and_of_a_mounted_bucket(self, link: Link) -> None:
        """Of a file that is not what the archive says, nothing is kept."""
        assert refusal(link, SignedObject("file:///etc/passwd", [Take("ab" * 32, 5, 0, 0, 5)])).code == "damaged"
        for url in ("ftp://127.0.0.1/a", "http://", "http://a b/", "http://[/"):
            assert refusal(link, SignedObject(url, [Take("ab" * 32, 5, 0, 0, 5)])).code == "refused"


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
        assert download_all(link, pack_of(bucket, SMALL), *spread(bucket, LARGE))[0] > 1
        assert content_of(home, sha256(LARGE)) == LARGE

    def test_a_server_that_nobody_vouches_for(
        self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "READS", 1)
        monkeypatch.delenv("SSL_CERT_FILE")
        http_client._trust.cache_clear()
        error = refusal(link, pack_of(bucket, SMALL))
        assert error.code == "not_fetched" and "CERTIFICATE_VERIFY_FAILED" in error.message
        assert bucket.asked == []

    def test_through_the_tunnel_of_a_proxy(
        self, link: Link, home: Home, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        proxy = BucketServer()
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("no_proxy", "elsewhere")
        assert download_all(link, pack_of(bucket, SMALL))[0] > 1
        assert proxy.asked == [("CONNECT", f"127.0.0.1:{bucket.port}")] and len(bucket.asked) == 1
        proxy.close()


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
        stored = pack_of(bucket, [b"by a proxy"])
        stored = stored._replace(url=stored.url.replace(f"127.0.0.1:{bucket.port}", "bucket.invalid"))
        assert download_all(link, stored)[0] == 1
        assert seen == [(stored.url, "Basic bWU6c2VjcmV0")]

    def test_one_that_is_not_there(self, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objects, "READS", 1)
        with own_port() as port:
            monkeypatch.setenv("https_proxy", f"127.0.0.1:{port}")
            error = refusal(link, SignedObject("https://bucket.invalid/a", [Take("ab" * 32, 5, 0, 0, 5)]))
        assert error.code == "not_fetched" and "refused" in error.message

    def test_one_that_can_not_be(self, link: Link, bucket: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objects, "READS", 1)
        monkeypatch.setenv("http_proxy", "http://proxy:none")
        error = refusal(link, pack_of(bucket, SMALL))
        assert error.code == "not_fetched" and "no such port" in error.message
