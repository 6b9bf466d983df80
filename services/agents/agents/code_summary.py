"""What a code turn says at its end. Pure."""

from services.agents.errors import NotDoable
from services.agents.ports import AgentContext
from services.runtime.standing import open_conflicts

MOST_OPEN = 10


def summary_of(context: AgentContext) -> str:
    """Return which files there are, what was assumed, and what is open. Raises NotDoable."""
    manifest = context.findings.manifest
    if not manifest.files:  # a session service of the version before keeps no plan
        raise NotDoable("PLAN_LOST", "The plan of files was lost, as in an upgrade: ask again.")
    purposes = {file.path: file.purpose for file in manifest.files}
    size = sum(artifact.size_bytes for artifact in context.artifacts)
    files = [
        f"- {artifact.path} ({artifact.size_bytes} bytes): {purposes.get(artifact.path, '')}"
        for artifact in context.artifacts
    ]
    undecided = [
        f"- “{one.first.value}” or “{one.second.value}”: {one.explanation}"
        for one in open_conflicts(context.findings)[:MOST_OPEN]
    ]
    parts = [
        [f"{len(files)} files, {size} bytes:", *files],
        ["Assumed:", *(f"- {one}" for one in manifest.assumptions)] if manifest.assumptions else [],
        ["Still to be decided:", *undecided] if undecided else [],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)
