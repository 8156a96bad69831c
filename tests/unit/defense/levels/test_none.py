"""defense/levels/none.py: without a defense every client weighs 1."""

from defense.evidence import Evidence
from defense.levels import none


def test_every_client_weighs_1_whatever_the_evidence():
    clean = Evidence(client_id="a", num_samples=48, num_flagged=0, last_probability=0.0)
    flagged = Evidence(client_id="b", num_samples=48, num_flagged=48, last_probability=1.0)
    assert none.weigh({}, [clean, flagged])[0] == {"a": 1.0, "b": 1.0}


def test_the_state_stays_as_it_is():
    flagged = Evidence(client_id="b", num_samples=48, num_flagged=48, last_probability=1.0)
    assert none.weigh({}, [flagged])[1] == {}
    assert none.weigh({"kept": 1}, [flagged])[1] == {"kept": 1}
