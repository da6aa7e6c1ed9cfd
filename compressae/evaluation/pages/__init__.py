"""Web pages of one file: data, style and script inside, nothing fetched."""

import html
import json
import re
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


def render(name: str, title: str, data: Any) -> str:
    """Render the page of ``NAME.js`` over JSON data; NaN is refused.

    The script finds the data parsed as ``DATA`` and an empty ``<main>``; it sets text by
    ``textContent`` only, so that no label can become markup.
    """
    text = json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "@TITLE@": html.escape(title),
        "@STYLE@": (_FOLDER / "style.css").read_text(encoding="utf-8"),
        "@SCRIPT@": (_FOLDER / f"{name}.js").read_text(encoding="utf-8"),
        # "</script>" inside a string would end the element.
        "@DATA@": text.replace("<", "\\u003c"),
    }
    page = (_FOLDER / "shell.html").read_text(encoding="utf-8")
    return re.sub("|".join(parts), lambda mark: parts[mark[0]], page)
