"""The one place that writes HTML: a page that needs no other file and runs no script.

Everything that goes into the template is escaped by jinja2; no text is taken for markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from textseg import __version__
from textseg.report.blocks import Section


def write_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Render a page as HTML: a heading, a line below it, a table of contents, the sections."""
    return _template().render(
        title=title, subtitle=subtitle, sections=sections, version=__version__
    )


def _printable(value: Any) -> Any:
    """Text without control characters, which no page may hold."""
    if not isinstance(value, str) or isinstance(value, Markup):  # a macro's, made of such text
        return value
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in value)


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("textseg.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["kind"] = lambda block: type(block).__name__
    return environment.get_template("page.html")
