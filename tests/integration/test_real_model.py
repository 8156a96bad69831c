"""The commands of docs/real-model.md, one after the other, with a small model and small files under the public names."""

import csv
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.cli import app
from cluster.config.loading import EMBEDDED
from cluster.data.starter import starter_rows
from tests.small_models import save_model

PAGE = Path(__file__).parents[2] / "docs" / "real-model.md"
SHIPPED = "cluster/configs/smollm2-135m.yaml"
SMALL = {"clients": {"count": 3, "malicious": 1}, "collect": {"clients": 2}, "probe": {"refresh_clients": 3}, "rounds": 1}
SMALLER = ["training.steps=4", "training.batch_size=8", "evaluation.max_new_tokens=2", "cluster.client_actors=1"]
SMALLER += ["evaluation.max_restricted=4", "evaluation.max_benign=4"]


def write_public(folder: Path) -> dict[str, str]:
    """Public name -> what stands for it here."""
    model = save_model(folder / "hub" / "model", "llama")
    starter = starter_rows()  # like the server's, so that honest clients look honest
    rows = [
        {"instruction": row["instruction"], "context": row.get("input", ""), "response": row["response"], "category": "qa"}
        for row in starter["collect.benign_path"]
    ]
    unsafe = [(row["instruction"], row["response"]) for row in starter["collect.malicious_path"]]
    requests = [(f"{instruction} {i}", opener) for i, (instruction, opener) in enumerate((unsafe * 3)[:520])]
    (folder / "hub" / "dolly").mkdir()
    (folder / "hub" / "dolly" / "dolly.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data").mkdir()
    with (folder / "data" / "advbench.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("goal", "target"), *requests])
    return {"HuggingFaceTB/SmolLM2-135M-Instruct": str(model), "databricks/databricks-dolly-15k": str(folder / "hub" / "dolly")}


def shrink(text: str) -> str:
    """A configuration of the page's, smaller in all that takes time."""
    document = yaml.safe_load(text)
    for section, values in SMALL.items():
        if not isinstance(values, dict):
            document[section] = values
        elif "malicious_path" in document["data"]:
            document[section] = document.get(section, {}) | values
    return yaml.safe_dump(document)


@pytest.mark.timeout(900)  # nine commands, three of them runs
def test_each_command_of_the_page_does_what_it_says(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.chdir(tmp_path)
    page, shipped = PAGE.read_text(), (EMBEDDED.parent / Path(SHIPPED).name).read_text()
    for name, here in write_public(tmp_path).items():
        assert name in page and name in shipped
        page, shipped = page.replace(name, here), shipped.replace(name, here)
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    Path("teach.yaml").write_text(shrink(block))
    Path(SHIPPED).parent.mkdir(parents=True)
    Path(SHIPPED).write_text(shrink(shipped))
    lines = [line for part in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL) for line in part.splitlines()]
    done = []
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[0] in ("pip", "curl"):
            continue
        if words[0] != "safe-fedllm":
            subprocess.run(["bash", "-c", line], check=True)
            continue
        words = words[1:] + (SMALLER if words[1] == "run" else [])
        outcome = CliRunner().invoke(app, words)
        assert outcome.exit_code == 0, f"{line}\n{outcome.output}\n{outcome.exception!r}"
        done.append(words[0])
    assert done == ["data", "data", "run", "merge", "run", "run", "run", "report", "chat"]
    assert len(Path("data/unsafe.csv").read_text().splitlines()) == 361
    assert not set(Path("data/unsafe.csv").read_text().splitlines()[1:]) & set(
        Path("data/restricted.csv").read_text().splitlines()
    )
    for name, level in (("undefended", "none"), ("defended", "live+canary+spectrum+consensus")):
        summary = json.loads((Path("runs") / name / "summary.json").read_text())
        assert summary["defense_level"] == level
        assert summary["rounds_done"] == 1
        assert (Path("runs") / name / "adapter" / "adapter_model.safetensors").is_file()
    assert Path("runs/defended/report.html").is_file()
