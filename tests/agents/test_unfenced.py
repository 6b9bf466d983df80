"""A file's text without the fence that a model puts around it, whatever pieces it comes in."""

import pytest
from hypothesis import given, strategies as st

from services.agents.agents.unfenced import Unfenced


def unfenced(text: str, path: str, sizes: list[int]) -> str:
    found, given_on = Unfenced(path), ""
    while text:
        size = sizes.pop() if sizes else len(text)
        given_on += found.take(text[:size])
        text = text[size:]
    return given_on + found.end()


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("a.py", "import json\n", "import json\n"),
        ("a.py", "```python\nimport json\n```", "import json\n"),
        ("a.py", "```\nimport json\n```\n", "import json\n"),
        ("a.py", "\n```c++\r\nx\n```\n\n", "x\n"),
        ("a.py", "```python\n```", ""),
        ("a.py", "```python\nx = 1", "x = 1"),
        ("a.py", "``", "``"),
        ("a.py", "", ""),
        ("a.py", "x\n```\n", "x\n```\n"),
        ("a.py", "```py\na\n```\nb\n```", "a\n```\nb\n"),
        ("a.md", "```sh\nls\n```\n", "```sh\nls\n```\n"),
        ("a.md", "```markdown\n# A\n\n```sh\nls\n```\n```", "# A\n\n```sh\nls\n```\n"),
    ],
)
@given(st.lists(st.integers(1, 5), max_size=60))
def test_only_a_fence_around_the_whole_is_taken_off(
    path: str, text: str, expected: str, sizes: list[int]
) -> None:
    assert unfenced(text, path, list(sizes)) == expected
