"""What `data check` prints: text of the files as text, and what is learned marked line by line."""

import io
import json
from pathlib import Path

from actors.data.findings import Finding, examine
from cluster.reporting.console import PlainConsole
from cluster.reporting.data_findings import print_findings


def printed(findings: list[Finding], unit: str = "characters", **options) -> str:
    file = io.StringIO()
    print_findings(PlainConsole(file=file, width=130, **options), findings, 512, unit)
    return file.getvalue()


def find(folder: Path, *rows: dict, name: str = "d.jsonl") -> Finding:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return examine(folder / name, {}, None, 512)


def test_each_line_of_an_example_says_whether_it_is_learned(tmp_path):
    text = printed([find(tmp_path, {"prompt": "Count.\nSlowly.", "completion": "1\n2"})])
    example = text.partition("row 0\n")[2]
    assert example.splitlines() == ["        | user: Count.", "        | Slowly.", "  learn > assistant: 1", "  learn > 2"]


def test_hostile_text_is_shown_as_text(tmp_path):
    prompt = "\x1b[31mred\x1b[0m [bold]x[/bold] :smile:\r\u2028\u202e\n  learn > not learned"
    text = printed([find(tmp_path, {"prompt": prompt, "completion": "y"})], force_terminal=True, color_system=None)
    assert "\x1b" not in text and "\u202e" not in text and "\u2028" not in text and "\r" not in text
    assert "\\x1b[31mred\\x1b[0m [bold]x[/bold] :smile:\\r\\u2028\\u202e\n        |   learn > not learned" in text


def test_long_text_and_many_errors_are_cut_short_and_counted(tmp_path):
    long = printed([find(tmp_path, {"prompt": "x" * 4000, "completion": "y"})])
    assert " ... 2506 more characters" in long and len(long) < 4000
    many = printed([find(tmp_path, *[{"prompt": "a", "completion": ""}] * 25, {"prompt": "a", "completion": "b"})])
    assert many.count("response should be non-empty text") == 10
    assert "... and 15 more rows that cannot be used" in many


def test_three_examples_of_all_files_are_shown(tmp_path):
    files = [find(tmp_path, {"prompt": "a", "completion": "b"}, name=f"{i}.jsonl") for i in range(60)]
    text = printed(files)
    assert [line for line in text.splitlines() if line.startswith("Example")] == [
        f"Example {number}: {tmp_path / f'{i}.jsonl'}, row 0" for number, i in enumerate((0, 30, 59), start=1)
    ]
    assert "... and 10 more files" in text
