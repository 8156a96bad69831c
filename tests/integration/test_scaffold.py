"""SCAFFOLD in a whole run on a real local Ray; `test_attacks.py` has its control variates over a resume."""

from tests.integration.conftest import MEASURED


def test_the_first_round_is_that_of_plain_training_and_the_second_is_corrected(finished_run, run_small):
    plain, corrected = finished_run("defense.level=none", *MEASURED), run_small("defense.level=none", "training.scaffold=true")
    norms = [
        {(row["round"], row["client_id"]): row["update_norm"] for row in run.rounds.to_pylist()} for run in (plain, corrected)
    ]
    for key, norm in norms[0].items():
        assert (norms[1][key] == norm) == (key[0] == 0), key
