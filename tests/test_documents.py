"""README, SECURITY and docs/: links lead somewhere, commands and keys exist, configurations are valid."""

import re
from pathlib import Path
from string import Template

import pytest
import yaml

from cluster.comparison.axes import split_axes
from cluster.config.loading import known_keys, validate
from tests.commands import parse

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = re.compile(r"(?:safe-fedllm|python -m cluster) .*")
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
KEYS = set(known_keys())


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", document.read_text(), flags=re.DOTALL)


def commands(document: Path) -> list[str]:
    """Our commands in the shell blocks, whole: without what a comment says, and with variables put in."""
    found: list[str] = []
    values: dict[str, str] = {}
    for block in blocks(document, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s;\s|;\s", re.sub(r"\s#.*", "", line)):
                values |= dict(re.findall(r"^(\w+)=(\S+)$", part.strip()))
                found += [Template(text).substitute(values) for text in OURS.findall(part)]
    return found


def anchors(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", document.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@EACH
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        path, _, anchor = target.partition("#")
        place = document.parent / path if path else document
        assert target.startswith("https://") or place.exists(), target
        assert not anchor or anchor in anchors(place), target


@EACH
def test_commands_parse_and_name_keys_that_exist(document):
    for command in commands(document):
        words = parse(command).get("arguments") or ()
        if command.split()[1] == "compare":
            words = split_axes(words)[1]
        assert {word.partition("=")[0] for word in words if "=" in word} <= KEYS, command


@EACH
def test_keys_in_the_text_exist(document):
    sections = {key.partition(".")[0] for key in KEYS if "." in key}
    named = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)(?:=[^`]*)?`", document.read_text())
    keys = [name for name in named if name.partition(".")[0] in sections and not name.endswith((".parquet", ".json"))]
    assert [key for key in keys if not any(known == key or known.startswith(f"{key}.") for known in KEYS)] == []


@EACH
def test_configurations_are_valid(document):
    for block in blocks(document, "yaml"):
        validate(yaml.safe_load(block))


def test_there_is_something_to_check():
    assert len(commands(ROOT / "README.md")) > 20
    assert "alpha=0.3" in " ".join(commands(ROOT / "docs" / "results.md"))
    assert any(blocks(document, "yaml") for document in DOCUMENTS)


@pytest.mark.parametrize("command", ["safe-fedllm rum", "safe-fedllm run --no-such-option", "safe-fedllm probe trian store"])
def test_a_misspelt_command_would_be_found(command):
    with pytest.raises(Exception, match=r"No such|trian|rum"):
        parse(command)
