"""The process that parses untrusted bytes: `python -m services.retrieval.parsing.child`.

It loads the parsers once and forks for each document. So every document meets a process that has
seen no other, at the price of a fork. Requests come on standard input, answers go to standard
output, as `protocol` has them.
"""

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO

from services.retrieval.parsing.docx import read_docx
from services.retrieval.parsing.html import read_html
from services.retrieval.parsing.model import Form, Limits, Reader, Unreadable
from services.retrieval.parsing.pdf import read_pdf
from services.retrieval.parsing.protocol import LENGTH, Ending

READERS: Mapping[Form, Reader] = {
    Form.HTML: read_html,
    Form.PDF: read_pdf,
    Form.DOCX: read_docx,
}
INPUT, OUTPUT, ERRORS = 0, 1, 2
OPEN_FILES = 32
MEBIBYTE = 2**20


def main() -> int:
    """Serve until standard input ends, or until there is no answer to a request."""
    while True:
        select.select([INPUT], [], [])
        if not (child := os.fork()):
            os._exit(_serve_one())
        _, status = os.waitpid(child, 0)
        if status:
            return _ending(status)


def _ending(status: int) -> Ending:
    if os.WIFEXITED(status):
        return Ending.ORDERLY if os.WEXITSTATUS(status) == os.EX_NOINPUT else Ending.CRASHED
    ended_by = os.WTERMSIG(status)
    if ended_by == signal.SIGXCPU:
        return Ending.TOO_LONG
    return Ending.KILLED if ended_by == signal.SIGKILL else Ending.CRASHED


def _serve_one() -> int:
    with open(INPUT, "rb", closefd=False) as requests:
        request = _received(requests)
    if request is None:
        return os.EX_NOINPUT
    head, _, data = request.partition(b"\n")
    asked = json.loads(head)
    _confine(memory=asked["memory"], seconds=asked["seconds"])
    answer = {**_answer(asked, data), "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
    with open(OUTPUT, "wb", closefd=False) as answers:
        encoded = json.dumps(answer).encode()
        answers.write(LENGTH.pack(len(encoded)) + encoded)
    return os.EX_OK


def _received(requests: BinaryIO) -> bytes | None:
    """Return a whole request; None if there is none, for whoever asked has gone."""
    length = requests.read(LENGTH.size)
    if len(length) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(length)
    request = requests.read(size)
    return request if len(request) == size else None


def _confine(*, memory: int, seconds: int) -> None:
    """Bound this process for the rest of its life: MiB of address space, processor seconds."""
    bounds = {
        resource.RLIMIT_AS: (memory * MEBIBYTE, memory * MEBIBYTE),
        # The first second beyond the limit is to die of SIGXCPU in, which tells of the reason.
        resource.RLIMIT_CPU: (seconds, seconds + 1),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (OPEN_FILES, OPEN_FILES),
    }
    for kind, bound in bounds.items():
        # Not every system has each of them.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, bound)
    # What a parser says about a document is no log line of ours.
    os.dup2(os.open(os.devnull, os.O_WRONLY), ERRORS)


def _answer(asked: Mapping[str, Any], data: bytes) -> Mapping[str, Any]:
    try:
        return {"pages": pages_of(data, Form(asked["form"]), Limits(**asked["limits"]))}
    except Unreadable as error:
        return {"problem": error.problem, "page": error.page}
    except MemoryError:
        return {"problem": f"needs more than {asked['memory']} MiB to be read", "page": None}
    except Exception as error:  # noqa: BLE001 - on hostile bytes a parser may raise anything
        return {"problem": f"is broken ({type(error).__name__})", "page": None}


def pages_of(data: bytes, form: Form, limits: Limits) -> list[str]:
    """Return the text of each page; one if the form has no pages. Raises Unreadable."""
    pages, size = [], 0
    for page in READERS[form](data, limits):
        pages.append(page)
        size += len(page.encode("utf-8", "replace"))
        if size > limits.text_bytes:
            raise Unreadable(f"holds more than {limits.text_bytes} bytes of text: split it")
    return pages


if __name__ == "__main__":
    sys.exit(main())
