"""`--json`: what the API has said, for programs."""

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON with the API's names, one object a line."
)


def json_line(message: Message) -> str:
    """Return all of a message in one line. Numbers of 64 bits are text, as protobuf has it."""
    return MessageToJson(
        message,
        preserving_proto_field_name=True,
        ensure_ascii=False,
        always_print_fields_with_no_presence=True,
        indent=None,
    )
