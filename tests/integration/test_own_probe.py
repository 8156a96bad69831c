"""A defended run on a model of one's own from model and data alone: the probe is made first, and kept."""

import json

from cluster import Federation, load_config
from cluster.probes.own_probe import probes_folder
from cluster.reporting.callback import RunCallback
from probe.meta import load_meta
from tests.small_models import save_model

LINES = 60


class Heard(RunCallback):
    def __init__(self) -> None:
        self.prepared: list[str] = []

    def preparing(self, what: str) -> None:
        self.prepared.append(what)


def test_one_configuration_with_model_and_data_makes_a_probe_and_the_next_run_finds_it(local_ray, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = tmp_path / "alpaca.json"
    data.write_text(json.dumps([{"instruction": f"say the number {i}", "input": "", "output": "yes"} for i in range(LINES)]))
    own = [
        f"model.path={save_model(tmp_path / 'model', 'llama')}",
        f"data.path={data}",
        "clients.count=3",
        "rounds=1",
        "training.steps=2",
        "training.batch_size=4",
        "training.learning_rate=0.003",
        "collect.clients=4",
        "probe.refresh_clients=3",
        "evaluation.max_restricted=4",
        "evaluation.max_benign=4",
        "evaluation.max_new_tokens=2",
        "cluster.client_actors=1",
        "model.dtype=float32",
    ]
    config_file = tmp_path / "my.yaml"
    config_file.write_text("clients: {malicious: 0}\n")
    config, heard = load_config(config_file, own), Heard()
    result = Federation(config, tmp_path / "run", heard).run()
    assert result.summary["rounds_aggregated"] == 1
    assert result.summary["defense_level"] == "live+canary+spectrum+consensus"
    assert result.summary["rule_score"] is not None  # safety, by starter requests
    assert heard.prepared[0].startswith("Starter data of this project stands in for what collect.benign_path, ")
    assert any(line.startswith("8 of 8 reference clients") for line in heard.prepared)
    (folder,) = [path for path in probes_folder().iterdir() if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "probe"]
    meta = load_meta(folder / "probe")
    assert (meta.feature, meta.recipe["learning_rate"]) == ("per_layer", 0.003)

    again = Heard()
    Federation(config, tmp_path / "again", again).close()
    assert len(again.prepared) == 1  # starter data only: the probe is there
