"""Templates to one self-contained page: styles, scripts and figures inside, nothing fetched when it is opened.

The page's own policy forbids fetching, and scripts run by their hash only, so that a name or an error message that got
past the escaping would still be no code.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pytest_llmperf import __version__
from pytest_llmperf.report.text import number

Filled = tuple[str, str, str, Mapping[str, Any]]
"""A section: anchor, title, template of its body, and what that is filled with."""


def render_page(sections: Sequence[Filled], started: datetime, **head: Any) -> str:
    """The whole file. ImportError without plotly or jinja2 (the `report` extra)."""
    import jinja2
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    ids = itertools.count(1)
    environment.globals |= {"number": _shown, "chart_id": lambda: f"chart-{next(ids)}"}
    environment.filters["figure"] = _figure_json
    macros: Any = environment.get_template("macros.html").module
    environment.globals |= {"chart": macros.chart, "badge": macros.badge}
    scripts = [get_plotlyjs(), _asset("page.js")]
    return environment.get_template("page.html").render(
        **head,
        sections=[
            (anchor, title, Markup(environment.from_string(body).render(content)))
            for anchor, title, body, content in sections
        ],
        started=f"{started.astimezone(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        style=Markup(_asset("page.css")),
        scripts=[Markup(script) for script in scripts],
        hashes=" ".join(f"'sha256-{_digest(script)}'" for script in scripts),
    )


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _figure_json(figure: Mapping[str, Any]) -> Any:
    """JSON that cannot end the script element it stands in."""
    from markupsafe import Markup

    text = json.dumps(figure, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _shown(value: object) -> str:
    """A cell of a table: numbers to four digits, None as a dash."""
    return number(value) if value is None or isinstance(value, float) else str(value)
