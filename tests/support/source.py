"""The source as text and as trees, read once by each process that asks.

Tests that ask are in the group ``source``: one process reads it for all of them.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

__all__ = ["IN_SOURCE", "ROOT", "messages", "sources", "texts", "tree_of"]

ROOT = Path(__file__).resolve().parents[2]

IN_SOURCE = pytest.mark.xdist_group("source")


@functools.cache
def sources() -> tuple[Path, ...]:
    """Every module that is installed."""
    folders = (ROOT / name for name in ("rusb", "client", "server", "filters"))
    return tuple(p for folder in folders for p in sorted(folder.rglob("*.py")))


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """What a module says."""
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def texts() -> tuple[tuple[str, str], ...]:
    """Where each text is, as FILE:LINE, and the text; ``{}`` is what is filled in.

    Docstrings are none.
    """
    return tuple(
        (f"{path.relative_to(ROOT)}:{line}", text)
        for path in sources()
        for line, text in _texts(tree_of(path))
    )


@functools.cache
def messages() -> tuple[tuple[str, str], ...]:
    """The texts of several words."""
    return tuple((where, text) for where, text in texts() if " " in text)


def _texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str):
                yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else p for p in node.values]
            yield node.lineno, "".join(p if isinstance(p, str) else "{}" for p in parts)
            waiting += [part for part in parts if isinstance(part, ast.AST)]
        elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            waiting += ast.iter_child_nodes(node)
