"""The base image, made here: no registry of images is asked for it. And one with an older Python."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.process import run

BASE_IMAGE = "remoterun-test/python:latest"
SUITE = "trixie"  # Debian 13, Python 3.13
OLD_IMAGE = "remoterun-test/python:3.11"
OLD_SUITE = "bookworm"  # Debian 12
PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")

CA_BUNDLE = "/etc/ssl/machine-ca.crt"
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
PASSED_ON = (
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
    "PIP_DISABLE_PIP_VERSION_CHECK",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)

FINISH = """\
set -eu
rm -f usr/lib/python3*/EXTERNALLY-MANAGED
ln -sf python3 usr/bin/python
# as in Debian's own images: dpkg need not wait for the disk where a layer is made
echo force-unsafe-io >etc/dpkg/dpkg.cfg.d/docker-apt-speedup
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/*.log usr/share/doc/* usr/share/man/* usr/share/info/*
rm -rf usr/share/locale/*
"""


class Images:
    """The base image in the cache folder: as plain files, and as an archive that `docker load` takes."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.folder = cache / "images"
        self.folder.mkdir(parents=True, exist_ok=True)

    def archive(self) -> Path:
        """Where the archive is, or would be; another place whenever the recipe changes."""
        return self.folder / f"base@{recipe_digest()}.tar"

    def files(self, suite: str = SUITE) -> Path:
        """The files of an image as a tar, made first if there is none: about 40 s, and it needs the package mirror."""
        name = "files" if suite == SUITE else f"files-{suite}"
        target = self.folder / f"{name}@{recipe_digest(suite)}.tar"
        if target.exists():
            return target
        for old in self.folder.glob(f"{name}@*.tar"):
            old.unlink()
        if suite == SUITE:
            for old in self.folder.glob("base@*.tar"):
                old.unlink()
        tree = self.folder / "files.new"
        shutil.rmtree(tree, ignore_errors=True)
        # in namespaces of its own: a session that is killed half-way leaves no process and no mount
        alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGKILL"]
        words = [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            suite,
            str(tree),
            *_mirror(),
        ]
        run([*alone, *words], timeout=900)
        run(["sh", "-c", f"cd '{tree}'\n{FINISH}"])
        (tree / "etc/apt/apt.conf.d/99machine").write_text(_apt_settings())
        for path in (CA_BUNDLE, "/etc/ssl/certs/ca-certificates.crt"):
            (tree / path.lstrip("/")).write_bytes(ca_bundle().read_bytes())
        new = target.with_suffix(".new")
        run(["tar", "--numeric-owner", "-C", str(tree), "-cf", str(new), "."], timeout=300)
        shutil.rmtree(tree)
        new.replace(target)
        return target

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One session at a time makes what is missing; the others wait and find it."""
        with (self.cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def import_words(reference: str = BASE_IMAGE) -> list[str]:
    """The docker command that makes an image from `Images.files` on its standard input."""
    variables = dict.fromkeys(CA_VARIABLES, CA_BUNDLE)
    variables |= {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    variables |= {"PIP_ROOT_USER_ACTION": "ignore", "LANG": "C.UTF-8"}
    changes = [f'ENV {name}="{value}"' for name, value in sorted(variables.items())] + ['CMD ["python3"]']
    return [
        "docker",
        "import",
        *(word for change in changes for word in ("--change", change)),
        "-",
        reference,
    ]


def archived_id(archive: Path) -> str:
    """The content address of the one image in an archive."""
    with tarfile.open(archive) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest is not None
        return "sha256:" + str(json.load(manifest)[0]["Config"]).rpartition("/")[2]


def recipe_digest(suite: str = SUITE) -> str:
    """Changes whenever the image would."""
    parts = [suite, *PACKAGES, FINISH, *import_words(), *_mirror(), _apt_settings()]
    digest = hashlib.sha256("\0".join(parts).encode())
    digest.update(ca_bundle().read_bytes())
    return digest.hexdigest()[:16]


def ca_bundle() -> Path:
    """The certificates that this machine trusts."""
    for name in CA_VARIABLES:
        path = Path(os.environ.get(name, "/nowhere"))
        if path.is_file():
            return path
    return Path("/etc/ssl/certs/ca-certificates.crt")


@functools.cache  # apt-get takes a second, and each host asks for the recipe
def _mirror() -> list[str]:
    """Where this machine's apt finds the same suite, if it does."""
    if f"VERSION_CODENAME={SUITE}" not in Path("/etc/os-release").read_text():
        return []
    shown = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Created-By: Packages"], check=False)
    for line in shown.stdout.splitlines():
        release, _, address = line.partition(" ")
        if release == SUITE and address.startswith("http"):
            return [address]
    return []


@functools.cache
def _apt_settings() -> str:
    """How this machine's apt reaches its mirror: proxies, and whether dates are checked."""
    dump = run(["apt-config", "dump"], check=False).stdout.splitlines()
    wanted = re.compile(r"Acquire::(Check-Valid-Until|Check-Date|https?::Proxy)\b")
    return "".join(f"{line}\n" for line in dump if wanted.match(line))
