"""Compile protos/ into gen/, and check it: `python tools/protos.py write|drift|lint|breaking`.

The rules of `buf.validate` come from the installed protovalidate package, so the rules that
are compiled in are always those that the services' validator knows. The generated code keeps
the rules as plain options but does not import `buf.validate`, which a wheel must not ship:
it loads everywhere, and protovalidate still finds the rules on its messages.
"""

import argparse
import filecmp
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from protobuf import DescFile
from protovalidate import ViolationPb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "gen" / "maieutic"
BUF = Path(sys.executable).with_name("buf")
BUF_CONFIG = PROTOS / "buf.yaml"
# The compiler has a venv of its own: see requirements/protos.in.
COMPILER_BIN = ROOT / ".venv-protos" / "bin"
RULES = "buf/validate/validate.proto"
BASES = ("origin/main", "main", "HEAD")


class CheckError(Exception):
    """A check failed; the text says what to do."""


def main() -> int:
    """Run the command of the arguments. Returns the exit status."""
    commands: dict[str, Callable[[Path], None]] = {
        "write": write,
        "drift": check_drift,
        "lint": lint,
        "breaking": check_breaking,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=commands)
    command = commands[parser.parse_args().command]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            command(Path(scratch))
        except CheckError as error:
            print(error, file=sys.stderr)
            return 1
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
    return 0


def write(scratch: Path) -> None:
    """Put fresh code into gen/maieutic and remove what no proto makes any more."""
    fresh = generate(scratch)
    for stale in _files(GENERATED) - _files(fresh):
        (GENERATED / stale).unlink()
    for name in sorted(_files(fresh)):
        target = GENERATED / name
        if not target.exists() or not filecmp.cmp(fresh / name, target, shallow=False):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((fresh / name).read_bytes())
            print(f"wrote {target.relative_to(ROOT)}")


def check_drift(scratch: Path) -> None:
    """Raise CheckError when gen/maieutic is not what the protos make."""
    fresh = generate(scratch)
    wrong = _files(GENERATED) ^ _files(fresh)
    both = _files(GENERATED) & _files(fresh)
    wrong |= {n for n in both if not filecmp.cmp(GENERATED / n, fresh / n, shallow=False)}
    if wrong:
        names = "\n".join(f"  gen/maieutic/{name}" for name in sorted(wrong))
        raise CheckError(f"These are not what protos/ makes; run `make protos`:\n{names}")


def lint(scratch: Path) -> None:
    """Let buf check style and format."""
    image = compile_image(PROTOS, scratch)
    _run([BUF, "lint", image, "--config", BUF_CONFIG])
    _run([BUF, "format", "--diff", "--exit-code", PROTOS])


def check_breaking(scratch: Path) -> None:
    """Let buf compare with the protos of the first of BASES that has some."""
    base = next((ref for ref in BASES if _extract(ref, scratch / "base")), None)
    if base is None:
        print("no earlier protos to compare with")
        return
    (scratch / "old").mkdir()
    old = compile_image(scratch / "base" / "protos", scratch / "old")
    new = compile_image(PROTOS, scratch)
    _run([BUF, "breaking", new, "--against", old, "--config", BUF_CONFIG])
    print(f"compared with {base}")


def generate(scratch: Path) -> Path:
    """Return a folder with what gen/maieutic has to hold."""
    image = FileDescriptorSet.FromString(compile_image(PROTOS, scratch).read_bytes())
    bare = without_rules_import(image)
    stripped = scratch / "stripped.binpb"
    stripped.write_bytes(bare.SerializeToString(deterministic=True))
    ours = [file for file in bare.file if file.name.startswith("maieutic/")]
    out = scratch / "gen"
    out.mkdir()
    _protoc(
        stripped, [file.name for file in ours], [f"--python_out={out}", f"--mypy_out=quiet:{out}"]
    )
    serving = [file.name for file in ours if file.service]
    if serving:
        _protoc(stripped, serving, [f"--grpc_python_out={out}", f"--mypy_grpc_out=quiet:{out}"])
    _complete_package(out / "maieutic", bare)
    return out / "maieutic"


def compile_image(protos: Path, scratch: Path) -> Path:
    """Compile every proto below a folder into one descriptor set, imports and comments kept."""
    rules = scratch / "rules.binpb"
    rules.write_bytes(rules_image().SerializeToString())
    image = scratch / "image.binpb"
    names = sorted(str(path.relative_to(protos)) for path in protos.glob("maieutic/**/*.proto"))
    outputs = [f"--descriptor_set_out={image}", "--include_imports", "--include_source_info"]
    _protoc(rules, names, [f"--proto_path={protos}", *outputs])
    return image


def rules_image() -> FileDescriptorSet:
    """The schema of `buf.validate` with its imports, as the validator itself has it."""
    image = FileDescriptorSet()
    for file in _with_imports(ViolationPb.desc().file, set()):
        image.file.add().ParseFromString(file.proto.to_binary())
    return image


def without_rules_import(image: FileDescriptorSet) -> FileDescriptorSet:
    """Drop `buf.validate` itself; its rules stay behind as options that nothing needs to read."""
    bare = FileDescriptorSet()
    for file in image.file:
        if file.name == RULES:
            continue
        kept = bare.file.add()
        kept.CopyFrom(file)
        if RULES in kept.dependency:
            kept.dependency.remove(RULES)
    return bare


def _with_imports(file: DescFile, seen: set[str]) -> Iterator[DescFile]:
    if file.name in seen:
        return
    seen.add(file.name)
    for dependency in file.dependencies:
        yield from _with_imports(dependency, seen)
    yield file


def _complete_package(package: Path, image: FileDescriptorSet) -> None:
    """Make every folder a typed package, and add the image for tools that read schemas."""
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        (folder / "__init__.py").write_text('"""Generated by `make protos`: do not edit."""\n')
    (package / "py.typed").touch()
    for file in image.file:
        file.ClearField("source_code_info")
    (package / "image.binpb").write_bytes(image.SerializeToString(deterministic=True))


def _protoc(descriptors: Path, names: Sequence[str], options: Sequence[str]) -> None:
    plugins = [
        f"--plugin={name}={COMPILER_BIN / name}"
        for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")
    ]
    compiler = str(COMPILER_BIN / "python")
    _run(
        [
            compiler,
            "-m",
            "grpc_tools.protoc",
            f"--descriptor_set_in={descriptors}",
            *plugins,
            *options,
            *names,
        ]
    )


def _extract(ref: str, target: Path) -> bool:
    """Unpack the protos of a commit. Returns False when it has none."""
    command = ["git", "-C", str(ROOT), "archive", ref, "protos/maieutic"]
    archive = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 - fixed
    if archive.returncode != 0:
        return False
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(target, filter="data")
    return True


def _files(folder: Path) -> set[Path]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path for path in found if "__pycache__" not in path.parts}


def _run(command: Sequence[str | Path]) -> None:
    subprocess.run([str(part) for part in command], check=True)  # noqa: S603 - built above


if __name__ == "__main__":
    sys.exit(main())
