"""The documentation: `sphinx-build docs OUT`, with the extra "dev". It needs no network."""

import ast
import contextlib
import dataclasses
import inspect
import io
import os
import textwrap
from typing import Any

from docutils.nodes import Element
from sphinx.application import Sphinx

import srvp_fd_jax
from srvp_fd_jax.cli import main
from srvp_fd_jax.cli._parser import COMMANDS

project = "srvp-fd-jax"
author = "The srvp-fd-jax authors"
copyright = f"2026, {author}"
version = release = srvp_fd_jax.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "furo"
html_title = f"{project} {release}"

myst_enable_extensions = ["deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are shown with the outputs that they hold

autoclass_content = "both"  # the arguments and errors of a class are those of its __init__
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has them

default_role = "py:obj"  # a name in backquotes is a link where there is something to link to

# Links between pages must hold. Types of other projects and of the standard library are not
# looked up, which would need their inventories and so a network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", rf"({names})(\..*)?")
    for names in (
        "str|int|float|bool|dict|list|tuple|type|None|any|property",
        "Any|Callable|Iterable|Mapping|Sequence|Literal|NamedTuple|Path|os|collections|pathlib",
        "jax|np|nnx|DTypeLike|ArrayLike|Array|AnyArray",
        "Bool|Float|Int|Shaped|UInt8|UInt32|Hashable",
        "jaxtyping|jaxlib|numpy|ndarray|int64|Arrays|Key|States|Moments|Source|Division|OfPoints",
        "Protocols|Groups|OnProgress|OnSet|Findings|Clip|ladder|_S",
    )
]


def _signature(of: Any) -> tuple[str, str | None]:
    """As the source writes it: types by their short names, shapes in quotes."""
    (source,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(of)))).body
    if isinstance(source, ast.ClassDef):  # a dataclass or named tuple, whose __init__ has none
        types = {
            ast.unparse(line.target): ast.unparse(line.annotation)
            for line in source.body
            if isinstance(line, ast.AnnAssign)
        }
        # Those of a `typing.Protocol` are none of its own.
        parameters = [p for p in inspect.signature(of).parameters.values() if p.name in types]
        fields = [
            f"{p.name}: {types[p.name]}" + ("" if p.default is p.empty else f" = {p.default!r}")
            for p in parameters
        ]
        if parameters and all(p.kind is p.KEYWORD_ONLY for p in parameters):
            fields = ["*", *fields]
        return f"({', '.join(fields)})", None
    assert isinstance(source, ast.FunctionDef)
    if source.args.args and source.args.args[0].arg in ("self", "cls"):
        del source.args.args[0]
    returns = source.returns and ast.unparse(source.returns).strip("'")
    return f"({ast.unparse(source.args)})", returns


def write_signature(
    app: Sphinx, what: str, name: str, of: Any, options: Any, arguments: str | None, returns: Any
) -> tuple[str, str | None] | None:
    """Puts the source's signature in place of the evaluated one."""
    if not callable(of):
        return None
    has_init = what == "class" and inspect.isfunction(vars(of).get("__init__"))
    return _signature(of.__init__ if has_init and not dataclasses.is_dataclass(of) else of)


def resolve(app: Sphinx, env: Any, node: Element, text: Element) -> Element | None:
    """Finds types by their short names; names in backquotes that are no link become code."""
    if node["reftype"] == "obj":
        return text
    if node["reftype"] == "class":
        node["refspecific"] = True  # in any module
        domain, page, target = env.domains["py"], node["refdoc"], node["reftarget"]
        return domain.resolve_xref(env, page, app.builder, "class", target, node, text)
    return None


def _help(command: str) -> str:
    """What a subcommand prints with --help, as a block of Markdown."""
    text = io.StringIO()
    os.environ["COLUMNS"] = "88"
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([command, "--help"])
    return f"```text\n{text.getvalue()}```"


def _protocol_table() -> str:
    """PROTOCOLS as `srvp-fd-jax protocols` lists them, comparisons of one dataset in one row."""
    rows = {
        protocol.name.replace(f":{protocol.output}", ":…"): protocol.described()
        for protocol in srvp_fd_jax.PROTOCOLS.values()
    }
    told = {
        "protocol",
        "network",
        "output",
        "distance",
        "seed",
    }  # by the name, or of no bearing on a preset
    columns = [column for column in next(iter(rows.values())) if column not in told]
    cells = [["protocol", *columns], ["---"] * (1 + len(columns))]
    cells += [[f"`{name}`", *(row[column] for column in columns)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


myst_substitutions = {
    "protocols": _protocol_table(),
    **{f"help_{name}": _help(name) for name in COMMANDS},
}


def setup(app: Sphinx) -> None:
    """Registers the above."""
    app.connect("autodoc-process-signature", write_signature)
    app.connect("missing-reference", resolve)
