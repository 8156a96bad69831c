"""SCAFFOLD in whole runs on a real local Ray: control variates go out, come back, and go on from a checkpoint to the bit."""

import torch

from actors.wire import decode_tensors
from cluster import Federation
from cluster.state.checkpoints import Checkpoints
from cluster.state.run_state import decode_state


def held(path, rounds_done: int) -> dict[str, torch.Tensor]:
    """Control variates in a checkpoint."""
    _, files = Checkpoints(str(path / "checkpoints"), keep=2).load(rounds_done)
    return decode_tensors(decode_state(files).aggregator.control_variates)


def test_a_run_goes_on_with_its_control_variates_to_the_bit(run_small):
    colluding = ("clients.attack=alie", "attack.alie.z=1", "clients.malicious=2", "defense.level=step")
    run = run_small("training.scaffold=true", *colluding)
    rows = run.rounds.to_pylist()
    assert all(row["admitted"] and row["round_outcome"] == "aggregated" for row in rows), rows
    first, second = held(run.path, 1), held(run.path, 2)
    assert {key.split("/")[0] for key in first} == {f"client-{i:03d}" for i in range(4)}
    assert all(bool(tensor.any()) for key, tensor in first.items() if "lora_B" in key)
    assert not any(torch.equal(second[key], tensor) for key, tensor in first.items() if "lora_B" in key)
    resumed = Federation.resume(run.path, from_round=1).run()
    assert resumed.summary["adapter_sha256"] == run.summary["adapter_sha256"]
    assert all(torch.equal(tensor, second[key]) for key, tensor in held(run.path, 2).items())


def test_the_first_round_is_that_of_plain_training_and_the_second_is_corrected(run_small):
    honest = ("clients.malicious=0", "defense.level=none", "training.steps=2")
    plain, corrected = (run_small(f"training.scaffold={on}", *honest).rounds.to_pylist() for on in ("false", "true"))
    norms = [{(row["round"], row["client_id"]): row["update_norm"] for row in rows} for rows in (plain, corrected)]
    for key, norm in norms[0].items():
        assert (norms[1][key] == norm) == (key[0] == 0), key
