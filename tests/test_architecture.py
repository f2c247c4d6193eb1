"""The import rules between the parts, read from the source without importing it."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.support.source import IN_SOURCE, ROOT, sources, tree_of

pytestmark = IN_SOURCE

MAPPED = ("client", "server", "filters")

SANS_IO = (
    *("rusb.errors", "rusb.usb", "rusb.filters", "rusb.wire", "rusb.rdp"),
    "rusb.rfb",
)
NO_IO = {
    *("asyncio", "os", "pathlib", "select", "socket", "ssl"),
    *("subprocess", "threading", "time", "usb"),
}
GROUND = ["rusb.oserrors", "rusb.paths"]
ENDS = [
    *("rusb.aio", "rusb.rdp", "rusb.wire", "rusb.filters", "rusb.usb"),
    *("rusb.rfb", "rusb.plugins", *GROUND),
]
MAY_IMPORT = {  # besides itself and rusb.errors
    "rusb.errors": [],
    "rusb.usb": [],
    "rusb.filters": ["rusb.usb"],
    "rusb.wire": ["rusb.usb"],
    "rusb.rdp": [],
    "rusb.rfb": [],
    "rusb.plugins": ["rusb.oserrors"],
    "rusb.oserrors": [],
    "rusb.paths": [],
    "rusb.aio": ["rusb.rdp", "rusb.wire", "rusb.usb", "rusb.plugins", *GROUND],
    "rusb.client": ENDS,
    "rusb.server": ENDS,
    "rusb.server.vbox": [*("rusb.filters", "rusb.usb"), *GROUND],
}
TOP_FLOOR = "rusb.server.machine"  # only itself and the command import it


def find_modules() -> Iterator[tuple[str, Path]]:
    for path in sources():
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[0] in MAPPED:
            parts.insert(0, "rusb")
        yield ".".join(p for p in parts if p != "__init__"), path


def find_imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")
            base = base[: len(base) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*module, alias.name]) for alias in node.names)


def is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


MODULES = dict(find_modules())


def test_imports_follow_the_rules() -> None:
    assert len(MODULES) > 200
    for name, path in MODULES.items():
        judge(name, set(find_imports(name, path)))


def judge(name: str, imports: set[str]) -> None:
    """Does a module import only what it may?"""
    for imported in imports:
        top = imported.partition(".")[0]
        assert top not in MAPPED, f"{name}: write rusb.{imported}, not {imported}"
        for part, allowed in MAY_IMPORT.items():
            if is_in(name, part) and top == "rusb":
                fine = (part, "rusb.errors", "rusb.__version__", *allowed)
                assert any(is_in(imported, f) for f in fine), (
                    f"{name} imports {imported}"
                )
        if is_in(name, "rusb.server") and not is_in(name, TOP_FLOOR):
            assert not is_in(imported, TOP_FLOOR), f"{name} imports {imported}"
        if any(is_in(name, part) for part in SANS_IO):
            assert top not in NO_IO, f"{name} is sans-IO but imports {imported}"


def test_no_test_imports_a_test() -> None:
    """Nor does what they share; the programs that tests write count, too."""
    wrong = re.compile(r"^(from|import) (\.|tests\b(?!\.support\b))", re.M)
    tests = sorted((ROOT / "tests").rglob("*.py"))
    assert len(tests) > 200
    assert [p for p in tests if wrong.search(p.read_text("utf-8"))] == []


def test_the_command_holds_no_device_adapter() -> None:
    """What a device is and does lies below; the command only lists devices."""
    for name, path in MODULES.items():
        if is_in(name, "rusb.cli"):
            for imported in find_imports(name, path):
                if is_in(imported, "rusb.usb.backend"):
                    assert imported == "rusb.usb.backend.LocalDevice", name
                assert not is_in(imported, "rusb.usb.queue"), name


COMMAND_IMPORTS_NOT = (
    *("xml", "rusb.server.vbox.document", "rusb.server.vbox.filter_list"),  # XML
    *("rusb.filters.engine.decide", "rusb.server.policy"),
    *("rusb.server.attachments", "rusb.server.remote_devices", "rusb.server.session"),
)


def test_the_command_holds_no_policy_and_no_xml() -> None:
    """What settings look like is the store's business, decisions are the filters'."""
    for name, path in MODULES.items():
        if is_in(name, "rusb.cli"):
            for imported in find_imports(name, path):
                for part in COMMAND_IMPORTS_NOT:
                    assert not is_in(imported, part), f"{name} imports {imported}"
            for node in ast.walk(tree_of(path)):
                is_document = isinstance(node, ast.Attribute) and (
                    node.attr in ("document", "attributes")
                )
                assert not is_document, f"{name} walks through a document"


def test_the_map_names_every_module() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    section = text.partition("## 1. ")[2].partition("## 2. ")[0]
    files = {path.name for path in MODULES.values()} - {"__init__.py"}
    named = set(re.findall(r"\w+\.py\b", section))
    assert named - {"__init__.py"} == files


def test_importing_rusb_imports_little() -> None:
    heavy = "{'asyncio', 'usb1', 'cryptography', 'construct'}"
    code = f"import sys, rusb; print({heavy} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
