"""Which clients are drawn for a round."""

from cluster.config.loading import load_config
from cluster.round.sampling import draw_clients, with_unable
from tests.unit.cluster.builders import round_report

NAMES = [f"client-{i:03d}" for i in range(10)]
EXCLUDED = frozenset(NAMES[:4])


def drawn(round_index: int, *overrides: str, excluded=EXCLUDED) -> list[str]:
    return draw_clients(load_config(None, list(overrides)), NAMES, round_index, excluded)


def test_all_that_take_part_are_drawn_unless_a_round_has_fewer():
    assert sorted(drawn(0, excluded=())) == NAMES
    rounds = [drawn(index, "clients.per_round=3", excluded=()) for index in range(20)]
    assert {len(set(clients)) for clients in rounds} == {3}
    assert len({tuple(clients) for clients in rounds}) > 10


def test_an_experiment_has_the_same_rounds_less_the_excluded_clients():
    for round_index in range(20):
        plain = drawn(round_index, "clients.per_round=3", excluded=())
        assert drawn(round_index, "clients.per_round=3") == [name for name in plain if name not in EXCLUDED]


def test_a_round_may_be_left_without_clients():
    assert {len(drawn(index, "clients.per_round=1")) for index in range(20)} == {0, 1}


def test_clients_that_cannot_deliver_have_a_row_that_says_why():
    report = with_unable(round_report(2, {"a": 1.0, "c": 0.5}, "skipped"), ["d", "b"])
    assert [(row.client_id, row.admitted, row.round, row.round_outcome) for row in report.clients] == [
        *(("a", True, 2, "skipped"), ("b", False, 2, "skipped"), ("c", True, 2, "skipped"), ("d", False, 2, "skipped"))
    ]
    assert report.clients[1].reason.startswith("no_data: none of its rows has a response token")
