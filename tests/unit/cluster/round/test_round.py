"""Who is drawn for a round."""

from cluster.config.loading import load_config
from cluster.round.round import draw_clients

NAMES = [f"client-{i:03d}" for i in range(10)]
MALICIOUS = frozenset(NAMES[:4])


def drawn(round_index: int, *overrides: str) -> list[str]:
    return draw_clients(load_config(None, ["clients.malicious=4", *overrides]), NAMES, round_index, MALICIOUS)


def test_the_truth_changes_nothing_unless_attackers_are_excluded():
    config = load_config(None, ["clients.per_round=5"])
    assert draw_clients(config, NAMES, 3, MALICIOUS) == draw_clients(config, NAMES, 3, ())
    assert sorted(drawn(0)) == NAMES


def test_an_oracle_has_the_same_rounds_less_the_attackers():
    for round_index in range(20):
        plain = drawn(round_index, "clients.per_round=3")
        assert len(plain) == 3
        honest = [name for name in plain if name not in MALICIOUS]
        assert drawn(round_index, "clients.per_round=3", "clients.exclude_malicious=true") == honest


def test_a_round_may_be_left_with_nobody():
    sizes = {len(drawn(index, "clients.per_round=1", "clients.exclude_malicious=true")) for index in range(20)}
    assert sizes == {0, 1}
