"""Trackers are there before any work, or the run is refused; one that fails later costs no round."""

import importlib.util

import pytest

from cluster.config.loading import load_config
from cluster.errors import ConfigError
from cluster.federation import Federation
from cluster.tracking.opening import TRACKERS, check_installed, open_trackers
from cluster.tracking.tracker import Listener
from tests.unit.cluster.builders import round_report


@pytest.fixture
def absent(monkeypatch):
    """The libraries are not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr("cluster.tracking.opening.find_spec", lambda name: None if name in TRACKERS else find(name))


def test_one_error_names_all_that_is_missing_and_what_to_install(absent):
    with pytest.raises(ConfigError) as error:
        check_installed(load_config(None, ["tracking=[mlflow,wandb]"]))
    assert str(error.value) == (
        "tracking: mlflow, wandb are not installed here; install with: pip install 'safe-fedllm[mlflow,wandb]', or leave it out "
        "of tracking"
    )
    check_installed(load_config(None, []))


def test_a_run_is_refused_before_it_has_a_directory(absent, tmp_path):
    with pytest.raises(ConfigError, match=r"safe-fedllm\[tensorboard\]"):
        Federation(load_config(None, ["tracking=[tensorboard]"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_name_is_no_library(tmp_path, monkeypatch):
    (tmp_path / "tracked_by").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    from cluster.tracking.opening import _is_installed

    assert importlib.util.find_spec("tracked_by") is not None
    assert not _is_installed("tracked_by")
    assert not _is_installed("no_such_library_here")


def test_an_unknown_tracker_is_refused_by_name():
    with pytest.raises(ConfigError, match="tracking"):
        load_config(None, ["tracking=[comet]"])


def test_one_that_cannot_begin_is_an_error_that_says_why_and_ends_the_others(run, monkeypatch):
    pytest.importorskip("mlflow")
    pytest.importorskip("tensorboard")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "gopher://nowhere")
    config = load_config(None, ["tracking=[tensorboard,mlflow]"])
    with pytest.raises(ConfigError, match=r"(?s)tracking: mlflow cannot begin: .*gopher"), open_trackers(config, run, print):
        pass


class Broken:
    """A tracker whose server is gone."""

    def __init__(self):
        self.calls = 0

    def _fail(self, *_, **__):
        self.calls += 1
        raise ConnectionError("gone")

    set_parameters = log = keep_adapter = close = _fail


def test_one_that_fails_later_is_said_once_and_told_nothing_more(run):
    tracker, said = Broken(), []
    listener = Listener("mlflow", tracker, said.append)
    listener.round_finished(round_report(0, {"a": 1.0}))
    listener.round_finished(round_report(1, {"a": 1.0}))
    listener.finished(run.path)
    listener.close()
    assert tracker.calls == 1
    assert said == ["tracking: mlflow is told nothing more, the run goes on: gone"]
