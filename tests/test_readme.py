"""README's Python examples run as they stand."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def test_snippets():
    snippets = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, str(README), "exec"), {})
