"""What the documentation site has besides the files in ``docs/``; a hook of mkdocs.

The front page is the README, the project's own papers come from the top folder, and the
command reference is made of the parsers that the commands use, as the man pages are.
Links between all of them are turned to where the pages lie in the site.
"""

import argparse
import importlib.util
import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rusb.cli import vbox  # noqa: E402 - the path comes first
from rusb.cli._words import OWN  # noqa: E402

PAPERS = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages of the top folder, and what they are called in the site."""

LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[#)])")
MARK = re.compile(r"\[([A-Z]\d?)\](?!\()")
"""Where the specifications say what they know something from; not a link."""

FENCE = re.compile(r"^(```\w+) (?!title=).*$", re.M)
"""The guides mark blocks for the tests that run them, as GitHub allows."""

ROLE = re.compile(r":(?:class|data|exc|func|meth|mod):<code>~?([^<]*)</code>")


def on_config(config: Any) -> Any:
    """Put every specification into the menu; the overview is first."""
    names = sorted(path.name for path in (ROOT / "docs" / "spec").glob("*.md"))
    (specs,) = (
        entry["Specifications"]
        for section in config.nav
        for part in (section.values() if isinstance(section, dict) else ())
        for entry in part
        if isinstance(entry, dict) and "Specifications" in entry
    )
    specs += [f"spec/{name}" for name in names]  # README comes before small letters
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie in no file of ``docs/``."""
    from mkdocs.structure.files import File

    for name, page in PAPERS.items():
        text = (ROOT / name).read_text("utf-8")
        files.append(File.generated(config, page, content=text))
    for page, text in commands().items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to where the pages lie in the site."""
    names = {page: name for name, page in PAPERS.items()}
    place = names.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    if page.file.src_uri.startswith("spec/"):
        markdown = MARK.sub(r"\[\1\]", markdown)
    markdown = FENCE.sub(r"\1", markdown)
    return LINK.sub(lambda m: relink(m[1], place, page.file.src_uri), markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Show names that docstrings refer to as code, without their modules."""
    return ROLE.sub(lambda m: f"<code>{m[1].rpartition('.')[2]}</code>", html)


def relink(link: str, place: str, page: str) -> str:
    """Return a link that stands in the checkout's file *place* as *page* has it."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link))
    target = PAPERS.get(target, target.removeprefix("docs/"))
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


# ----------------------------------------------------------------- commands ----


def commands() -> dict[str, str]:
    """Return the pages of the command reference."""
    manual = _manual()
    own = [f"# Commands\n\n{_list('rusb', manual, OWN)}"]
    own += [_section("rusb", word, manual) for word in OWN]
    names = sorted(vbox.commands())
    others = [f"# Commands of VBoxManage\n\n{_list('rusb', manual, names)}"]
    others += [_section("rusb", word, manual) for word in names]
    return {
        "reference/commands.md": "\n".join(own),
        "reference/vboxmanage.md": "\n".join(others),
    }


def _manual() -> Any:
    """Import ``manual.py``, which lies beside this file and in no package."""
    spec = importlib.util.spec_from_file_location("manual", ROOT / "tools/manual.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _list(program: str, manual: Any, words: Any) -> str:
    rows = (f"| [`{program} {w}`](#{program}-{w}) | {manual.about(w)} |" for w in words)
    return "\n".join(("| command | what it does |", "|---|---|", *rows, ""))


def _section(program: str, word: str, manual: Any) -> str:
    called = "rdesktop-vrdp" if word == "rdesktop" else f"{program} {word}"
    parser = argparse.ArgumentParser(called, add_help=manual.has_help(word))
    manual.describe(word, parser)
    usage = parser.format_usage()
    if word in vbox.commands():
        usage = "\n".join(vbox.synopses(called, vbox.commands()[word]))
    text = manual.about(word)
    lines = [
        f"## {called} {{ #{program}-{word} }}",
        "",
        f"{text[:1].upper()}{text[1:]}.",
    ]
    lines += ["", "```text", usage.strip().removeprefix("usage: "), "```", ""]
    return "\n".join((*lines, *_options(parser, word), ""))


def _options(parser: argparse.ArgumentParser, word: str) -> Iterator[str]:
    shape = parser._get_formatter()
    for action in parser._actions:
        head = shape._format_action_invocation(action)
        is_word = word in vbox.commands() and not action.option_strings
        if is_word or action.help == argparse.SUPPRESS:
            continue
        text = (action.help or "").replace("%%", "%")
        text = re.sub(r"(?<!`)(--[a-z][\w-]*)", r"`\1`", text).replace("<", "&lt;")
        yield from (f"`{head}`", f":   {text or '(see the guide)'}", "")
