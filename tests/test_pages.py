"""The commands and the Python of the README and the documentation give the output that they show.

A block of Python or of shell that is followed by a block of text prints it, up to the last digits.
"""

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path

import pytest

from srvp_fd_jax import NETWORKS, PROTOCOLS, cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(bash|python)\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.S)
NUMBER = re.compile(r"-?\d+\.\d+")


def run(language: str, code: str, names: dict[str, object]) -> str:
    """What a block prints on standard output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if language == "python":
            exec(compile(code, "<page>", "exec"), names)
        else:
            for command in code.splitlines():
                program, *arguments = shlex.split(command, comments=True)
                assert program == "srvp-fd-jax"
                assert cli.main(arguments) == 0
    return printed.getvalue()


@pytest.fixture(autouse=True)
def registries():
    """The registries as they were, after a page has added to them."""
    before = [dict(NETWORKS), dict(PROTOCOLS)]
    yield
    for registry, entries in zip((NETWORKS, PROTOCOLS), before, strict=True):
        registry.clear()
        registry.update(entries)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore:.*leave the covariance singular")
def test_blocks_print_what_the_page_shows(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: dict[str, object] = {"__name__": "__main__"}
    for language, code, shown in BLOCK.findall(page.read_text()):
        if shown or language == "python":
            printed = run(language, code, names)
            assert NUMBER.sub("#", printed) == NUMBER.sub("#", shown or printed)
            numbers = [[float(n) for n in NUMBER.findall(text)] for text in (printed, shown)]
            assert not shown or numbers[0] == pytest.approx(numbers[1], rel=0.01)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)#\s]+)", page.read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_within_the_project_lead_somewhere(page):
    for link in links(page):
        if not link.startswith(("https://", "http://")):
            assert (page.parent / link).exists(), link


def test_the_table_of_corruptions_has_the_numbers_of_the_figure():
    spec = importlib.util.spec_from_file_location("make_figures", ROOT / "docs/make_figures.py")
    make_figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_figures)
    table = re.findall(
        r"^\| !\[.*?\]\(figures/(\w+)\.gif\).*?\| (.*) \| (.*) \| (.*) \|$",
        (ROOT / "docs/comparisons.md").read_text(),
        re.M,
    )
    distances = make_figures.measure()[1]
    assert [name for name, *_ in table] == [name.replace(" ", "_") for name in distances]
    for (_, *shown), measured in zip(table, distances.values(), strict=True):
        expected = [measured[output] for output in ("frame", "static_content", "dynamics")]
        assert list(map(float, shown)) == pytest.approx(expected, rel=0.01, abs=0.005)
