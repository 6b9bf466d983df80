"""What a code turn says at its end. Pure."""

from services.agents.agents import known
from services.agents.ports import AgentContext

MOST_OPEN = 10


def summary_of(context: AgentContext) -> str:
    """Return which files there are, what was assumed, and what is open."""
    manifest = context.findings.manifest
    purposes = {file.path: file.purpose for file in manifest.files}
    size = sum(artifact.size_bytes for artifact in context.artifacts)
    files = [
        f"- {artifact.path} ({artifact.size_bytes} bytes): {purposes.get(artifact.path, '')}"
        for artifact in context.artifacts
    ]
    undecided = [
        f"- “{one.first.value}” or “{one.second.value}”: {one.explanation}"
        for one in known.open_conflicts(context.findings)[:MOST_OPEN]
    ]
    parts = [
        [f"{len(files)} files, {size} bytes:", *files],
        ["Assumed:", *(f"- {one}" for one in manifest.assumptions)] if manifest.assumptions else [],
        ["Still to be decided:", *undecided] if undecided else [],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)
