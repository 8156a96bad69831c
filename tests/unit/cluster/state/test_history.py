"""cluster/state/history.py: a commit writes what is new, and the newest name vouches for everything before it."""

from dataclasses import replace

import pytest

from cluster.errors import CheckpointError
from cluster.state.history import History, Reports
from cluster.state.place import Place
from tests.unit.cluster.builders import evaluation_report, probe_row, round_report

SCORES = {"a": 1 / 3, "b": None}


def reports(num_rounds: int) -> Reports:
    return Reports(
        rounds=tuple(round_report(index, SCORES) for index in range(num_rounds)),
        probe_rounds=tuple(probe_row(index) for index in range(num_rounds)),
        evaluations=tuple(evaluation_report(index, 0.75) for index in range(0, num_rounds, 2)),
    )


def opened(tmp_path) -> History:
    return History(Place(str(tmp_path)))


def files(tmp_path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "reports").glob("*")}


def test_what_was_written_comes_back_from_each_commit(tmp_path):
    history = opened(tmp_path)
    names = [history.write(reports(count)) for count in (1, 2, 2, 5)]
    assert names[1] == names[2] != names[3]
    assert [opened(tmp_path).read(name) for name in names] == [reports(1), reports(2), reports(2), reports(5)]
    assert opened(tmp_path).read("") == Reports()
    assert opened(tmp_path / "other").write(Reports()) == ""


def test_a_commit_writes_its_own_rounds_only(tmp_path):
    history, sizes = opened(tmp_path), []
    for count in range(1, 30):
        before = files(tmp_path)
        history.write(reports(count))
        (new,) = files(tmp_path).keys() - before.keys()
        assert before.items() <= files(tmp_path).items()
        sizes.append(len(files(tmp_path)[new]))
    assert max(sizes[1:]) - min(sizes[1:]) < 0.5 * sizes[0]  # every second one has an evaluation


def test_a_run_that_goes_back_goes_on_from_there_and_leaves_nothing_of_what_it_rejects(tmp_path):
    history = opened(tmp_path)
    first, _ = (history.write(reports(count)) for count in (2, 3))
    back = opened(tmp_path)
    assert back.read(first) == reports(2)
    other = replace(reports(3), rounds=(*reports(2).rounds, round_report(2, {"a": 0.9}, "skipped")))
    name = back.write(other)
    back.remove_others()
    assert len(files(tmp_path)) == 2
    assert opened(tmp_path).read(name) == other


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damage_is_named_wherever_it_is(tmp_path, damage):
    history = opened(tmp_path)
    first, second = (history.write(reports(count)) for count in (1, 2))
    path = tmp_path / "reports" / f"{first}.json"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"0.75", b"0.95"))
    with pytest.raises(CheckpointError, match=rf"{path} .*--from-round"):
        opened(tmp_path).read(second)
