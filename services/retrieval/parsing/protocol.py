"""What the service and the processes that parse for it say to each other over pipes.

Requests and answers are each a length and as many bytes:

    request  a line of JSON {"form", "limits", "memory", "seconds"}, then the document
    answer   JSON {"pages", "peak"}, or {"problem", "page", "peak"} of an unreadable document

`peak` is the most memory that the document took, in KiB.
"""

import struct
from enum import IntEnum

LENGTH = struct.Struct(">I")
BYTES_A_BYTE = 6
"""What a byte of text takes in JSON at most."""


class Ending(IntEnum):
    """The exit status of such a process: why there is no (further) answer."""

    ORDERLY = 0
    """Nothing more was asked."""
    CRASHED = 3
    """The document made its parser crash, as it does for want of memory."""
    TOO_LONG = 4
    """The document took more processor time than it may."""
    KILLED = 5
    """Somebody killed its parser, as the system does for want of memory."""
