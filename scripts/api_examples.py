"""Extension of griffe, for mkdocs.yml: doctests of docstrings become code in the API reference."""

from typing import Any

import griffe


class DoctestsAsExamples(griffe.Extension):
    """Puts doctests that stand in no section of a docstring into "Examples:" sections."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = with_sections(obj.docstring.value)


def with_sections(docstring: str) -> str:
    """Indent the doctests of a docstring below "Examples:"; those of a section stay as they are."""
    lines: list[str] = []
    is_example = was_example = False
    for line in docstring.splitlines():
        if line.startswith(">>> ") and not is_example:
            is_example = True
            if not was_example:
                lines.append("Examples:")
        elif is_example and not line:
            is_example, was_example = False, True
        elif line and not is_example:
            was_example = False
        lines.append(f"    {line}" if is_example else line)
    return "\n".join(lines)
