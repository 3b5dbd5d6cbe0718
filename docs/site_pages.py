"""MkDocs hook: pages that lie outside docs/, notebooks as pages, and links that fit the site.

A page is written for who reads it in the repository. Its links to other pages of the site go there;
links to files that the site does not show become their paths.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
# Of the repository's files outside docs/, the page that shows them.
PAGES = {
    "experiments/README.md": "experiments.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security_policy.md",
    "CHANGELOG.md": "changelog.md",
    "README.md": "index.md",
}
SHOWN = {page: source for source, page in PAGES.items() if page != "index.md"}
LOADED = re.compile(r'<(?:script|link|img|iframe|source)[^>]*(?:src|href)="(https?:[^"]+)')
LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/ and those of notebooks."""
    for page, source in SHOWN.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for notebook in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        page = f"notebooks/{notebook.stem}.md"
        files.append(File.generated(config, page, content=page_of_notebook(notebook)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages."""
    here = page.file.src_uri
    source = SHOWN.get(here, f"docs/{here}")

    def pointed(link: re.Match[str]) -> str:
        words, target = link.groups()
        if re.match(r"[a-z]+:|#", target):
            return link.group()
        name, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), name))
        shown = PAGES.get(path, path.removeprefix("docs/") if path.startswith("docs/") else None)
        if shown is None or files.get_file_from_path(shown) is None:
            return words if path in words else f"{words} (`{path}`)"
        to = posixpath.relpath(shown, posixpath.dirname(here) or ".")
        return f"[{words}]({to}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(```.*?```)", markdown, flags=re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(pointed, part) for part in parts)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that would load anything from elsewhere."""
    loaded = re.search(
        r'<(?:script|link|img|iframe|source)[^>]*(?:src|href)="(https?:[^"]+)', output
    )
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads {loaded[1]}")
    return output


def page_of_notebook(notebook: Path) -> str:
    """The cells of a notebook as Markdown: prose as it is, code as blocks."""
    cells: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = [
        "".join(cell["source"])
        if cell["cell_type"] == "markdown"
        else f"```python\n{''.join(cell['source'])}\n```"
        for cell in cells
    ]
    return "\n\n".join(shown) + "\n"
