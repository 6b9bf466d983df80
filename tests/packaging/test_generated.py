from pathlib import Path

import protovalidate

from maieutic.v1.document_service_pb2 import GetDocumentRequest

GENERATED = Path(__file__).parents[2] / "gen" / "maieutic"


def test_no_generated_module_needs_buf_validate() -> None:
    modules = [path for path in GENERATED.rglob("*.py*") if path.suffix in {".py", ".pyi"}]
    assert modules
    assert [path for path in modules if "buf.validate" in path.read_text()] == []


def test_the_rules_of_the_protos_hold_on_generated_messages() -> None:
    broken = protovalidate.collect_violations(GetDocumentRequest())
    assert [violation.proto.rule_id for violation in broken] == ["string.pattern"]
    assert protovalidate.collect_violations(GetDocumentRequest(document_id="d" * 24)) == []
