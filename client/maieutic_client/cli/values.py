"""Values of enums as people say them."""

from google.protobuf.descriptor import EnumDescriptor


def spoken(enum: EnumDescriptor, value: int) -> str:
    """Return a value's name without its enum's, in small letters; a newer one as its number."""
    if (known := enum.values_by_number.get(value)) is None:
        return str(value)
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    name: str = known.name
    return name.removeprefix(prefix).lower().replace("_", " ")
