"""The documents say what the program does."""

import ast
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import glmimage
from glmimage.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def code_lines(page):
    """Yield the lines of a page's shell blocks, continued ones joined, comments cut."""
    for block in re.findall(r"```(?:sh|bash|console)\n(.*?)```", page.read_text("utf-8"), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def commands(page, program):
    for line in code_lines(page):
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == program:
            yield words


def test_generated_pages_are_fresh():
    done = subprocess.run(
        [sys.executable, "scripts/generate_docs.py", "--check"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_glmimage_commands_parse(page):
    """Parse every command of the page with the real options, without running it."""
    group = typer.main.get_command(app)
    for words in commands(page, "glmimage"):
        if words[1].startswith("--"):
            continue
        command, rest = group.commands[words[1]], words[2:]
        if hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        context = command.make_context(words[1], rest)
        assert context.params


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_use_public_names(page):
    for block in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.S):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "glmimage":
                assert {name.name for name in node.names} <= set(glmimage.__all__)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "pipe":
                assert hasattr(glmimage.Pipeline, node.attr), f"pipe.{node.attr}"


def test_the_readme_shows_the_main_commands():
    assert {words[1] for words in commands(ROOT / "README.md", "glmimage")} >= {"generate"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    for words in commands(page, "make"):
        assert {word for word in words[1:] if "=" not in word} <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_file_tree_of_the_readme_exists():
    tree = re.search(r"```text\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    assert tree is not None
    folder = ROOT
    for line in tree.group(1).splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT
            assert (ROOT / name).exists(), name
            folder = ROOT / name
        else:
            assert (folder / name).exists(), f"{folder.name}/{name}"


def test_the_backup_keeps_what_is_there(tmp_path):
    """As operations.md has it, where there is no folder for it yet."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    code = re.search(r"\*\*Backup\.\*\*.*?```sh\n(.*?)```", page, re.S)[1]
    data = tmp_path / "data"
    for name in ("files", "keys", "tls", "policy"):
        (data / name).mkdir(parents=True)
    (data / "keys" / "secret").write_text("s")
    with sqlite3.connect(data / "glmimage.sqlite3") as database:
        database.execute("CREATE TABLE jobs (id)")
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", "-euc", 'rsync() { cp "$@"; }\n' + code],  # copies a folder in the same words
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PATH": programs, "GLMIMAGE_DATA_DIR": str(data)},
    )
    kept = tmp_path / "backup"
    assert (kept / "keys" / "secret").read_text() == "s"
    with sqlite3.connect(kept / "glmimage.sqlite3") as database:
        assert database.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
