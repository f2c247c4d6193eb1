"""What the workflow, CONTRIBUTING.md and the templates name is there."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = (ROOT / ".github/workflows/ci.yml").read_text("utf-8")
PAPERS = [
    *("CONTRIBUTING.md", "README.md", "mkdocs.yml", ".pre-commit-config.yaml"),
    *(".ci/run", ".github/workflows/ci.yml", ".github/pull_request_template.md"),
]


@pytest.mark.parametrize("paper", PAPERS)
def test_every_make_target_that_is_named_is_one(paper: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    text = (ROOT / paper).read_text("utf-8")
    named = set(re.findall(r"(?:^|['`] *|run: )make ([a-z-]+)", text, re.M))
    assert named <= targets


def test_the_workflow_runs_every_python_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    promised = re.findall(
        r":: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE
    )
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", WORKFLOW, re.MULTILINE)
    assert re.findall(r"[\d.]+", matrix) == promised
    assert project["requires-python"] == f">={promised[0]}"


def test_contributing_begins_with_three_commands() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    first = text.partition("```sh\n")[2].partition("```")[0]
    assert text.startswith("# Contributing\n\n```sh\n")
    assert [line.split()[0] for line in first.splitlines()] == ["make"] * 3
