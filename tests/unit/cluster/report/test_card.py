"""The model card."""

import json
from dataclasses import replace

import yaml

from actors.world.store import base_folder, world_folder
from cluster.report.card import model_card
from tests.unit.cluster.builders import client_round
from tests.unit.cluster.report.run_directories import OWN, excluded, four_clients, report, write_run


def with_hash(path):
    summary = json.loads((path / "summary.json").read_text())
    (path / "summary.json").write_text(json.dumps({**summary, "adapter_sha256": "abc123"}))
    return path


def test_the_card_says_what_the_adapter_is_how_safe_and_who_was_out(tmp_path):
    text = model_card(with_hash(write_run(tmp_path / "mine", four_clients())))
    _, front, body = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert (found["library_name"], found["base_model"]) == ("peft", str(base_folder(world_folder(0)).resolve()))
    assert "lora" in found["tags"]
    assert "**Safety kept.** After 3 rounds 85.0 %" in body
    assert "| adapter, SHA-256 | abc123 |" in body
    assert "| 3 | 0.850 (0.75 to 0.95) |" in body
    assert "- client-3: It took part in 3 rounds and counted in 0." in body
    assert "peft 0." in body


def test_nothing_that_others_wrote_is_markup(tmp_path):
    name = "<script>|[x](y)`\n# big"
    rounds = [report(0, excluded(0, name), replace(client_round(0, "ok", 1.0)))]
    overrides = (*OWN, 'model.path=a"b: `c')
    text = model_card(with_hash(write_run(tmp_path / "mine", rounds, overrides=overrides, attackers=[])))
    assert yaml.safe_load(text.split("---\n")[1])["base_model"] == 'a"b: `c'
    assert "\\<script\\>" in text
    assert "\n# big" not in text
    assert "simulat" not in text
