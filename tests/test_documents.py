"""Documents: links lead somewhere, commands and keys exist, configurations are valid, citations are of documents that exist."""

import re
from pathlib import Path
from string import Template

import pytest
import yaml

from cluster.comparison.cells import split_axes
from cluster.config.loading import known_keys, validate
from tests.commands import parse

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")} - {ROOT / "CHANGELOG.md"})  # which may name keys of old
OURS = re.compile(r"(?:safe-fedllm|python -m cluster) .*")
EACH = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
KEYS = set(known_keys())
FOLDERS = ("actors", "cluster", "defense", "docs", "probe", "tests")
FILES = [*ROOT.glob("*"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
TEXTS = [path for path in FILES if path.suffix in {".py", ".md", ".yaml", ".json", ".toml", ".cff"}]
NOT_HERE = [f"{name}.md" for name in ("METHOD", "CONTRACT", "FEASIBILITY", "DESIGN")]
CITATION = re.compile(r"docs/method\.md\s+sections?\s+(\d+)(?:\s+and\s+(\d+))?")


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
    keys = [name for name in named if name.partition(".")[0] in sections and not name.endswith((".parquet", ".json", ".py"))]
    assert [key for key in keys if not any(known == key or known.startswith(f"{key}.") for known in KEYS)] == []


@EACH
def test_configurations_are_valid(document):
    for block in blocks(document, "yaml"):
        validate(yaml.safe_load(block))


@pytest.mark.parametrize("name", NOT_HERE)
def test_no_document_is_named_that_a_reader_does_not_have(name):
    assert [str(path) for path in TEXTS if name in path.read_text()] == []


def test_cited_sections_of_the_method_exist():
    sections = set(re.findall(r"^## (\d+)\. ", (ROOT / "docs" / "method.md").read_text(), flags=re.MULTILINE))
    found = [(path.name, match.groups()) for path in TEXTS for match in CITATION.finditer(path.read_text())]
    assert len(found) > 20
    assert [(name, number) for name, numbers in found for number in numbers if number and number not in sections] == []


def test_the_way_of_an_update_passes_files_that_exist_and_few_of_them():
    rows = re.findall(r"^\| (\d+) \| `([\w/.]+)` \|", (ROOT / "docs" / "architecture.md").read_text(), flags=re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert 20 < len(rows) <= 25
    assert [path for _, path in rows if not (ROOT / path).is_file()] == []


def test_each_picture_is_shown():
    shown = {name for document in DOCUMENTS for name in re.findall(r"pictures/([\w-]+\.png)", document.read_text())}
    assert {path.name for path in (ROOT / "docs" / "pictures").iterdir()} == shown


def test_there_is_something_to_check():
    assert len(commands(ROOT / "README.md")) > 12
    assert "alpha=0.3" in " ".join(commands(ROOT / "docs" / "results.md"))
    assert any(blocks(document, "yaml") for document in DOCUMENTS)


@pytest.mark.parametrize("command", ["safe-fedllm rum", "safe-fedllm run --no-such-option", "safe-fedllm probe trian store"])
def test_a_misspelt_command_would_be_found(command):
    with pytest.raises(Exception, match=r"No such|trian|rum"):
        parse(command)
