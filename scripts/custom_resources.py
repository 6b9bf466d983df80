#!/usr/bin/env python3
"""Check KEDA's resources among manifests, for which Kubernetes itself has no schema.

Run with the Python that has requirements/chart.txt: scripts/custom_resources.py MANIFESTS...
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from pydantic import BaseModel, ValidationError

GROUP = "keda.sh/v1alpha1"


def main() -> None:
    """Print each problem; exit with 1 if there is one."""
    found = [problem for name in sys.argv[1:] for problem in problems(Path(name))]
    sys.exit("\n".join(found) or None)


def problems(manifests: Path) -> Iterator[str]:
    """Return what is wrong with KEDA's resources in a file."""
    for document in yaml.safe_load_all(manifests.read_text(encoding="utf-8")):
        if document and document["apiVersion"] == GROUP:
            name = f"{document['kind']} {document['metadata']['name']}"
            yield from (f"{manifests}: {name}: {problem}" for problem in wrong(document))


def wrong(document: dict[str, Any]) -> Iterator[str]:
    """Return what does not fit the resource's model."""
    model: type[BaseModel] = getattr(keda, document["kind"])
    try:
        read = model.model_validate(document)
    except ValidationError as error:
        yield str(error)
        return
    kept = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    # The models drop fields that they do not know without a word.
    yield from (f"{path} is not known" for path in lost(document, kept))


def lost(given: object, kept: object, path: str = "") -> Iterator[str]:
    """Return the paths of *given* that *kept* does not have."""
    if isinstance(given, dict):
        for key, value in given.items():
            if isinstance(kept, dict) and key in kept:
                yield from lost(value, kept[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(given, list) and isinstance(kept, list):
        for position, pair in enumerate(zip(given, kept, strict=True)):
            yield from lost(*pair, f"{path}/{position}")


if __name__ == "__main__":
    main()
