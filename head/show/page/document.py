"""The page itself: one HTML text that holds style, script and data, and lets a browser fetch nothing.

All that comes from data goes into one JSON block and reaches the page as text nodes. The policy names style and
script by their digests, so that nothing else could run.
"""

import base64
import hashlib
import html
import json
from importlib import resources
from string import Template
from typing import Any

SCRIPTS = ("parts.js", "maps.js", "scores.js", "detail.js", "gallery.js", "runs.js", "live.js", "page.js")
_UNSAFE = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def page_of(data: dict[str, Any], *, title: str) -> str:
    """Return the page that shows data, as `head.show.page.report.build_report` and its like make it."""
    style, script = _packaged("page.css"), "\n".join(map(_packaged, SCRIPTS))
    return Template(_packaged("page.html")).substitute(
        policy=policy_of(style, script, live="live" in data),
        title=html.escape(title),
        style=style,
        script=script,
        data=json_block(data),
    )


def json_block(data: Any) -> str:
    """Return data as JSON that can stand in any HTML element: without <, > and &, and in ASCII."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).translate(_UNSAFE)


def policy_of(style: str, script: str, *, live: bool) -> str:
    """Return the content security policy: this style and this script, images from the page itself, no network."""
    rules = {
        "default-src": "'none'",
        "script-src": f"'sha256-{_digest(script)}'",
        "style-src": f"'sha256-{_digest(style)}'",
        "style-src-attr": "'unsafe-inline'",  # of the figures' lines and text; the style could fetch nothing
        "img-src": "data:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{rule} {value}" for rule, value in rules.items())


def _packaged(name: str) -> str:
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
