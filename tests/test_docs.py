"""Links between the project's own papers lead somewhere."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest

from rusb.filters.engine import decide
from rusb.server.vbox.settings import load_machine
from rusb.usb.device import DeviceInfo
from tests.support.rows import each_row
from tests.support.source import IN_SOURCE, ROOT, messages, sources
from tests.support.whole_path import Lab, machine

PAPERS = [
    *ROOT.glob("*.md"),
    *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "spec"),
    ROOT / "docs" / "spec" / "README.md",
]


@each_row("paper", PAPERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(paper: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", paper.read_text(), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    gone = [
        link
        for link in links
        if "://" not in link and not (paper.parent / link).exists()
    ]
    assert gone == []


def test_the_smallest_machine_of_the_readme_is_one(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    path = tmp_path / "Lab.vbox"
    path.write_text(text.partition("```xml\n")[2].partition("```")[0], "utf-8")
    machine = load_machine(path)
    assert (machine.name, machine.usb_controllers) == ("Lab", ("XHCI",))
    stick = DeviceInfo(1, 0x0951, 0x1666, remote=True)
    assert decide(machine.filters, stick).matched
    assert not decide(machine.filters, DeviceInfo(1, 0x1209, 2, remote=True)).matched


async def test_the_program_of_the_quick_start_offers_a_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/guide/quick-start.md").read_text("utf-8")
    program = text.partition("```python\n")[2].partition("```")[0]
    monkeypatch.setenv("RUSB_STATE", str(tmp_path))
    lab = Lab(tmp_path, machine())
    async with asyncio.timeout(20), lab.server:
        names: dict[str, Any] = {}
        here = f'"127.0.0.1", {lab.server.port}'
        program = program.replace('"server.example"', here)
        exec(program.replace("asyncio.run(main())", ""), names)
        running = asyncio.create_task(names["main"]())
        (device,) = await lab.guest.wait_for(1)
        assert device.strings["product"] == "Flash Drive"
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


# ---------------------------------------------------------------- messages ----

TROUBLES = ROOT / "docs" / "guide" / "troubleshooting.md"
STANDS_FOR = re.compile(r"…|HOST:PORT|HighSpeed")
"""What the guide puts where a message has a value."""


def explained() -> list[str]:
    """What the guide says that users see: the code in the first column."""
    rows = re.findall(r"^\| (.*?) \|", TROUBLES.read_text("utf-8"), re.M)
    return [code for row in rows for code in re.findall("`(.*?)`", row) if " " in code]


@IN_SOURCE
@each_row("message", explained())
def test_what_the_guide_explains_is_really_said(message: str) -> None:
    for part in filter(None, map(str.strip, STANDS_FOR.split(message))):
        assert any(part in text for _, text in messages()), f"nothing says {part!r}"


# ------------------------------------------------------------------- variables ----


def test_the_guide_has_every_environment_variable() -> None:
    texts = (path.read_text("utf-8") for path in sources())
    read = {name for text in texts for name in re.findall(r"\bRUSB_[A-Z_]+\b", text)}
    guide = (ROOT / "docs" / "guide" / "environment.md").read_text("utf-8")
    assert set(re.findall(r"^\| `(RUSB_\w+)`", guide, re.M)) == read


# ---------------------------------------------------------- what works with what ----

COMBINATIONS = ROOT / "docs" / "guide" / "combinations.md"


def plugins_in(folder: str) -> set[str]:
    """The names of our plugins there."""
    found = {path.stem for path in (ROOT / folder).glob("[!_]*.py")}
    return found - {"base"}


def test_the_tests_that_the_table_names_are_there() -> None:
    text = COMBINATIONS.read_text("utf-8")
    named = re.findall(r"`(tests/[a-z_/0-9]+\.py)::(\w+)`", text)
    assert len(named) > 10
    for path, name in named:
        source = (ROOT / path).read_text("utf-8")
        assert re.search(rf"^(async )?def {name}\(", source, re.M), f"{path}::{name}"


def test_the_table_has_every_source_and_guest_and_no_empty_cell() -> None:
    text = COMBINATIONS.read_text("utf-8")
    known = set(re.findall(r"^- \*\*(\w+)\*\* ", text, re.M))
    used = set[str]()
    tables = re.findall(r"^\| from .*\n\|[-|]*\n(?:\|.*\n)+", text, re.M)
    assert len(tables) == 2
    for table in tables:
        head, _, *rows = [line.strip("|").split("|") for line in table.splitlines()]
        assert {cell.strip(" `") for cell in head[1:]} == plugins_in("server/guests")
        sources = {row[0].strip() for row in rows}
        assert {f"`{n}`" for n in plugins_in("client/backends")} <= sources
        for row in rows:
            assert len(row) == len(head)
            used |= {word.strip() for cell in row[1:] for word in cell.split(",")}
    assert used == known | {"s"}


def test_the_module_of_the_authentication_guide_runs_as_printed() -> None:
    text = (ROOT / "docs/guide/authentication.md").read_text("utf-8")
    program = text.partition("```python\n")[2].partition("```")[0]
    module: dict[str, Any] = {}
    exec(program, module)

    def ask(password: str, is_logon: int) -> int:
        who = ("vrde", None, 0, "john", password, "", is_logon, 1)
        return int(module["vrdp_auth3"](*who))

    assert [ask("secret", 1), ask("wrong", 1), ask("secret", 0)] == [1, 0, 0]
