"""A run's environment: its hash, and the Dockerfile that makes it. Executes nothing."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, List, Optional

from .spec import NONE, PYTHON, TENSORFLOW, EnvironmentSpec, RunSpec

FORMAT = 1

_PACKAGE = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(?:\[[^]]*\]\s*)?(?:$|[<>=!~;@#(])")
"""A line of a requirements file that names a package."""
PACKAGES = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "cv2": "opencv-python-headless", "dateutil": "python-dateutil",
    "dotenv": "python-dotenv", "git": "gitpython", "skimage": "scikit-image", "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}  # fmt: skip
"""Modules whose package has another name."""
KNOWN_MODULES = frozenset((
    "PIL", "accelerate", "bs4", "cv2", "datasets", "diffusers", "einops", "h5py", "jax", "keras", "librosa",
    "lightning", "matplotlib", "nltk", "numpy", "pandas", "peft", "plotly", "polars", "pyarrow", "pytest", "requests",
    "rich", "scipy", "seaborn", "skimage", "sklearn", "soundfile", "spacy", "sympy", "tokenizers", "torch",
    "torchaudio", "torchvision", "tqdm", "transformers", "wandb", "xgboost", "yaml",
))  # fmt: skip
"""Modules whose package is surely meant. Another name may be that of a file that is not sent, and on the package index
that of a stranger's package."""


class Environment(EnvironmentSpec):
    """What was asked for, with the names that follow from it."""

    @classmethod
    def of(cls, spec: RunSpec) -> "Environment":
        return cls(**spec.environment._asdict())

    @property
    def plain(self) -> bool:
        """Nothing is installed on top."""
        return not (self.apt or self.pip or self.requirements)

    @property
    def base_environment(self) -> Optional["Environment"]:
        """The one with TensorFlow alone, on which this one's packages can be a layer."""
        return None if self.plain or self.framework != TENSORFLOW else self._replace(apt=(), pip=(), requirements="")

    @property
    def bundled_hash(self) -> str:
        if self.framework != TENSORFLOW:  # of the context it holds nothing
            return _hash([FORMAT, self.framework, self.base])
        return _hash([FORMAT, "bundled", self.base, self.variant, self.context])

    @property
    def hash(self) -> str:
        """Two environments with one hash are the same."""
        return _hash([FORMAT, self.image or self.bundled_hash, self.apt, self.pip, self.requirements])

    def packages_hash(self, bundled_requirements: str) -> str:
        """Of the Python packages alone; `bundled_requirements` is the digest of that file."""
        return _hash([FORMAT, bundled_requirements, self.pip, self.requirements])

    @property
    def bundled_image(self) -> str:
        return self.base if self.framework == NONE else "remoterun-base:" + self.bundled_hash

    @property
    def final_image(self) -> str:
        """What `docker run` gets."""
        if self.plain:
            return self.image or self.bundled_image
        return "remoterun-env:" + self.hash

    @property
    def built_images(self) -> List[str]:
        """The images that are built for it, the one under the other first. One that the user named is pulled."""
        bundled = [] if self.image or self.framework == NONE else [self.bundled_image]
        return bundled + ([] if self.plain else [self.final_image])

    @property
    def requirements_file(self) -> str:
        """In the context; there is none but for TensorFlow."""
        return "docker/requirements-%s.txt" % self.variant

    @property
    def all_requirements(self) -> str:
        """A requirements file of what the user asked for."""
        return "".join(line + "\n" for line in self.pip) + self.requirements

    def contents(self, framework: str) -> str:
        """What is in it, for people. `framework`: what its framework is called there, such as TensorFlow 2.21."""
        return ", ".join(filter(None, [framework, *self.apt, *package_names(self.all_requirements)]))

    def bundled_dockerfile(self) -> str:
        """Of the bundled image with plain Python; that with TensorFlow has its Dockerfile in the context. `python` and
        `pip` exist whatever the base calls them, and a command may install packages of its own."""
        assert self.framework == PYTHON
        return (
            "FROM %s\n"
            "USER root\n"
            "RUN if ! python3 -m pip --version >/dev/null 2>&1; then python3 -m venv --system-site-packages /opt/venv;"
            ' elif ! command -v python >/dev/null; then ln -s "$(command -v python3)" /usr/local/bin/python; fi\n'
            "ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1"
            " PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore\n" % self.base
        )

    def dockerfile(self) -> str:
        """Of the layer with the user's packages. Needs `requirements.txt` beside it. No syntax of BuildKit's."""
        lines = ["FROM " + (self.image or self.bundled_image), "USER root"]
        if self.apt:
            lines.append(
                "RUN apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "
                + " ".join(self.apt)
                + " && rm -rf /var/lib/apt/lists/*"
            )
        if self.pip or self.requirements:
            lines.append("COPY requirements.txt /tmp/remoterun-requirements.txt")
            lines.append(
                "RUN if command -v python >/dev/null; then p=python; else p=python3; fi;"
                " PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore"
                ' "$p" -m pip install --no-cache-dir --disable-pip-version-check'
                " -r /tmp/remoterun-requirements.txt"
            )
        return "\n".join(lines) + "\n"


def package_names(requirements: str) -> List[str]:
    """The packages that a requirements file names. What has an address only has no name."""
    found = [_PACKAGE.match(line) for line in requirements.splitlines()]
    return [match.group(1) for match in found if match]


def image_id(image: str, architecture: str) -> str:
    """What an archive calls an image that was built: `architecture` is that of its host, as `uname -m` says it."""
    return _digest([FORMAT, "docker", architecture, image])


def _hash(value: Any) -> str:
    return _digest(value)[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
