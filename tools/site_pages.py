"""The site's pages that stand in the root of the checkout, its navigation, and links between both.

A hook of mkdocs (`mkdocs.yml`). Links are written for those who read the files: `docs/settings.md`
in the root, `../ARCHITECTURE.md` in docs/. On the site the root pages stand beside those of docs/.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OF_THE_ROOT = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
GUIDES = (
    "adopting",
    "order-service",
    "web",
    "settings",
    "flows",
    "wire",
    "returns",
    "publishers",
    "erase",
    "replay",
    "quarantine",
    "restore",
    "probe",
    "running",
    "traces",
    "alerts",
)
ABOUT = ("reliability", "performance", "glossary")
_LINK = re.compile(r"(?<=\]\()(?P<target>[^)\s:#]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Order the pages; a page that stands nowhere here is an error of the strict build."""
    config.nav = [
        {"outbox-relay": "README.md"},
        {"Your first night": "first-night.md"},
        {"Verdicts": _pages("verdicts")},
        {"Guides": [f"{name}.md" for name in GUIDES]},
        {"How it works": ["ARCHITECTURE.md", *(f"{name}.md" for name in ABOUT)]},
        {"Decisions": _pages("adr")},
        {"The project": ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]},
    ]
    return config


def _pages(folder: str) -> list[Any]:
    names = sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))
    return [f"{folder}/README.md", *(f"{folder}/{name}" for name in names if name != "README.md")]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the root's pages."""
    for name in (*OF_THE_ROOT, "LICENSE"):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links between files of the checkout into links between pages of the site."""
    source = page.file.src_uri
    return _LINK.sub(
        lambda link: _target(source, link["target"]) + (link["anchor"] or ""), markdown
    )


def _target(source: str, target: str) -> str:
    if target.endswith("/"):
        target += "README.md"
    if source in OF_THE_ROOT:
        return target.removeprefix("docs/")
    out_of_docs = "../" * (source.count("/") + 1)
    return target.removeprefix("../") if target.startswith(out_of_docs) else target
