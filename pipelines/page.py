"""Reports are single HTML pages that need nothing else: no scripts, no network, pictures inside."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import Final

POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load and run: nothing but pictures in the page, whatever a text got in."""

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #202124; background: #faf9f6; max-width: 1000px; margin: 2em auto;
  padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin-top: 2em } figure { margin: 0 0 1em }
figcaption { color: #7c7a74; font-size: .85em } svg { background: #fff; border: 1px solid #e2dfd8; max-width: 100% }
"""


def page(title: str, style: str, body: str) -> str:
    """Return a whole page. title: text; style: CSS on top of `STYLE`; body: HTML, its texts escaped already."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>{body}</body></html>\n"
    )


def picture(data: bytes, kind: str, text: str) -> str:
    """Return an image element with the picture inside. kind: `png` or `jpeg`; text: what it shows."""
    encoded = base64.b64encode(data).decode("ascii")
    return f'<img alt="{html.escape(text)}" src="data:image/{kind};base64,{encoded}">'


def write_page(file: Path, text: str) -> Path:
    """Write a page under its name once it is whole, making its folder; return the path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.new")
    temporary.write_text(text, encoding="utf-8")
    return temporary.replace(file)
