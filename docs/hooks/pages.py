"""MkDocs' hook: the pages that are made from the code when the documentation is built."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from feat_fed.config import FederationConfig, SiteConfig, StudyConfig
from feat_fed.config.simulation import SimulationConfig
from feat_fed.config.sweep import SweepConfig
from from_models import config_page
from from_protocol import audit_page, codes_page, protocol_page
from from_typer import cli_page
from repository import FOLDER, ROOT, linked, rewritten, source_page

DOCS = ROOT / "docs"

_log = logging.getLogger("mkdocs.hooks")
_FOREIGN = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//[^>]*>")


def reference() -> Mapping[str, Callable[[], str]]:
    """Return how each page of the reference is made, by its path."""
    return {
        "reference/cli.md": cli_page,
        "reference/study.md": lambda: config_page(
            "The study",
            "What the coordinator decides, in `study.yaml`; it travels with every round. An "
            "unknown key is an error. `feat-fed server --study FILE --dry-run` prints a study with "
            "every key.",
            StudyConfig,
            _example("configs/studies/private.yaml"),
        ),
        "reference/site.md": lambda: config_page(
            "The site",
            "What the hospital decides, in `site.yaml`; it never travels. Relative paths count "
            "from the file's folder.",
            SiteConfig,
            _example("configs/sites/hospital.yaml"),
        ),
        "reference/federation.md": lambda: config_page(
            "The federation",
            "Who may take part, in `federation.yaml` at the coordinator's. Certificates, keys and "
            "tokens lie beside the file; `feat-fed provision` makes them.",
            FederationConfig,
            _example("configs/federations/three_hospitals.yaml"),
        ),
        "reference/simulation.md": lambda: config_page(
            "The scenario",
            "Virtual hospitals, in the file of `feat-fed simulate --scenario` "
            "([simulation](../simulation.md)).",
            SimulationConfig,
        ),
        "reference/sweep.md": lambda: config_page(
            "The sweep",
            "What is varied, in the file of `feat-fed sweep` ([sweeps](../baselines.md#sweeps)).",
            SweepConfig,
        ),
        "reference/protocol.md": protocol_page,
        "reference/codes.md": codes_page,
        "reference/audit.md": audit_page,
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name into it, by their folder."""
    nav = config.nav or []
    listed = set(_paths(nav))
    for title, pattern in (("How to", "howto/*.md"), ("Explanation", "*.md")):
        section = next(each[title] for each in nav if title in each)
        found = (each.relative_to(DOCS).as_posix() for each in sorted(DOCS.glob(pattern)))
        section += [path for path in found if path not in listed]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, and what of the repository is linked to."""
    for path, make in reference().items():
        files.append(File.generated(config, path, content=make()))
    shown = {
        target
        for file in files.documentation_pages()
        for target in linked(file.src_uri, file.content_string)
    }
    for target in sorted(shown):
        files.append(File.generated(config, f"{FOLDER}/{target}.md", content=source_page(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of ``docs/`` to the pages that show what is there."""
    return rewritten(page.file.src_uri, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn of whatever a page would load from elsewhere."""
    for tag in _FOREIGN.findall(output):
        _log.warning("%s loads from elsewhere: %s", page.file.src_uri, tag)
    return output


def _paths(nav: object) -> Iterator[str]:
    """Yield all paths of a navigation."""
    if isinstance(nav, str):
        yield nav
    elif isinstance(nav, Mapping | list):
        for each in nav.values() if isinstance(nav, Mapping) else nav:
            yield from _paths(each)


def _example(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")
