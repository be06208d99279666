"""Examples are run, and the pages of the reference hold what is public.

Examples of I3D are marked to be left out: of hundreds of clips, they would take minutes, and
tests/test_fvd.py makes the same calls.
"""

import ast
import doctest
import importlib
import inspect
import pydoc
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import srvp_fd_jax

ROOT = Path(__file__).parents[1]


def docstrings() -> Iterator[tuple[str, str]]:
    """Docstrings of the package with examples, under the dotted names of what they document.

    From the sources: the type checks wrap functions so that doctest would not find them.
    """

    def visit(node: Any, name: str) -> Iterator[tuple[str, str]]:
        if ">>>" in (docstring := ast.get_docstring(node) or ""):
            yield name, docstring
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from visit(child, f"{name}.{child.name}")

    for path in sorted((ROOT / "srvp_fd_jax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        yield from visit(ast.parse(path.read_text()), module)


EXAMPLES = dict(docstrings())


def documented() -> Iterator[str]:
    """Dotted names that the pages of the reference have entries for."""
    for page in (ROOT / "docs" / "api").glob("*.md"):
        module = ""
        for directive, name in re.findall(r"^\.\. ([\w:]+):: (\S+)$", page.read_text(), re.M):
            if directive == "currentmodule":
                module = name
            elif directive.startswith(("auto", "py:")):
                yield name if name.startswith("srvp_fd_jax.") else f"{module}.{name}"


DOCUMENTED = sorted(documented())


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_gives_what_it_says(name: str):
    examples = doctest.DocTestParser().get_doctest(EXAMPLES[name], {}, name, None, 0)
    told: list[str] = []
    outcome = doctest.DocTestRunner().run(examples, out=told.append)
    assert outcome.attempted
    assert not outcome.failed, "".join(told)


PUBLIC = {
    name: value
    for name, value in vars(srvp_fd_jax).items()
    if not name.startswith("_") and not inspect.ismodule(value)
}


def test_every_export_has_an_example():
    for name, exported in PUBLIC.items():
        if callable(exported):
            origin = f"{inspect.unwrap(exported).__module__}.{name}"
            assert origin in EXAMPLES


def test_reference_has_what_is_exported_and_nothing_private():
    assert len(set(DOCUMENTED)) == len(DOCUMENTED)
    of_package = {name for name in DOCUMENTED if name.count(".") == 1}
    assert of_package == {f"srvp_fd_jax.{name}" for name in PUBLIC}
    for name in DOCUMENTED:
        module, _, last = name.rpartition(".")
        assert hasattr(importlib.import_module(module), last), name
        assert "._" not in name


def functions() -> Iterator[tuple[str, Any]]:
    """The documented functions and public methods."""
    for name in DOCUMENTED:
        entry = pydoc.locate(name)
        if inspect.isclass(entry):
            for attribute, value in vars(entry).items():
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if attribute == "__call__" or (callable(value) and not attribute.startswith("_")):
                    yield f"{name}.{attribute}", inspect.unwrap(value)
        elif inspect.isroutine(inspect.unwrap(entry)):
            yield name, inspect.unwrap(entry)


def has_array_without_shape(hint: Any) -> bool:
    # A jaxtyping type is a class and has no arguments to look into.
    return hint in (jax.Array, np.ndarray) or any(
        map(has_array_without_shape, typing.get_args(hint))
    )


def test_signatures_give_the_shapes_of_arrays():
    hints = {name: typing.get_type_hints(function) for name, function in functions()}
    assert len(hints) > 40
    wrong = [n for n, of_one in hints.items() if any(map(has_array_without_shape, of_one.values()))]
    assert not wrong


TICS = (
    r": Of ",
    r"\b(clips|frames|samples|videos|batches) a (side|call|row|clip|round)\b",
    r"\b(an? \w+|one) an? (protocol|comparison|video|clip|frame|metric|side)\b",
    r"\b(what|all that) is (of|known of) (it|either)\b",
    r"\bmade otherwise\b",
)


@pytest.mark.parametrize("tic", TICS)
def test_prose_is_plain_english(tic):
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    sources = [p for d in ("srvp_fd_jax", "examples") for p in (ROOT / d).rglob("*.py")]
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in [*pages, *sources]
        for line in path.read_text().splitlines()
        if re.search(tic, line)
    ]
    assert not found
