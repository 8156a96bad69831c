"""At the end of a run peft loads the adapter as its files hold it, whatever became of the actors in between."""

import json

import pytest

from actors.errors import ModelError
from cluster import Federation, load_config
from cluster.reporting.callback import RunCallback
from tests.chaos import actor_processes
from tests.integration.conftest import SMALL


class AtTheEnd(RunCallback):
    """Calls once the adapter is written: the last evaluation is taken after that."""

    def __init__(self, call):
        self._call = call

    def evaluated(self, report):
        if report.rounds_done == 2:
            self._call()


def test_an_adapter_whose_files_do_not_give_the_runs_logits_is_an_error_after_all_is_written(local_ray, tmp_path):
    path = tmp_path / "run" / "adapter" / "adapter_config.json"

    def change():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 17}))

    with pytest.raises(ModelError, match=r"the saved adapter is scaled by .* results are written in .*run"):
        Federation(load_config(None, SMALL), tmp_path / "run", AtTheEnd(change)).run()
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rounds_aggregated"] == 2


def test_a_client_actor_that_died_is_replaced_for_the_check(local_ray, tmp_path):
    killed = []

    def kill():
        for process in actor_processes("client"):
            process.kill()
            killed.append(process.pid)

    result = Federation(load_config(None, SMALL), tmp_path / "run", AtTheEnd(kill)).run()
    assert killed
    assert result.summary["rounds_aggregated"] == 2
