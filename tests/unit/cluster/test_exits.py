"""How a command ends: a line on standard error, and a log that holds the rest."""

import pytest

from cluster.errors import ClusterError
from cluster.exits import log_folder, report, report_interrupt


@pytest.fixture(autouse=True)
def temporary(monkeypatch, tmp_path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    token = log_folder.set(None)
    yield
    log_folder.reset(token)


def caught(error: Exception) -> Exception:
    try:
        raise error
    except Exception as same:
        return same


def test_a_message_that_says_it_all_has_no_log(capsys, tmp_path):
    report(caught(ClusterError("no [red]room[/red] \x1b[31m")), verbose=False)
    assert capsys.readouterr().err == "error: no [red]room[/red] \\x1b[31m\n"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_fault_has_a_log_that_the_line_names(capsys, tmp_path):
    report(caught(KeyError("x")), verbose=False)
    (log,) = (tmp_path / "tmp").iterdir()
    assert capsys.readouterr().err == f"error: unexpected error, a fault of this program: KeyError: 'x' (traceback in {log})\n"
    assert "Traceback" in log.read_text()
    assert "raise error" in log.read_text()


def test_the_log_of_a_run_lies_in_its_directory_and_grows(capsys, tmp_path):
    log_folder.set(tmp_path)
    (tmp_path / "config.yaml").touch()
    for name in ("first", "second"):
        report(caught(KeyError(name)), verbose=False)
    assert f"(traceback in {tmp_path / 'error.log'})" in capsys.readouterr().err
    text = (tmp_path / "error.log").read_text()
    assert text.index("KeyError: 'first'") < text.index("KeyError: 'second'")


def test_verbose_shows_the_traceback_too(capsys):
    report(caught(ClusterError("no room")), verbose=True)
    error = capsys.readouterr().err
    assert error.startswith("Traceback")
    assert error.endswith("error: no room\n")


def test_where_no_log_can_be_written_the_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    report(caught(KeyError("x")), verbose=False)
    assert "(no log could be written: No such file or directory: /proc/nowhere/" in capsys.readouterr().err


def test_after_ctrl_c_a_run_that_has_begun_says_how_it_goes_on(capsys, tmp_path):
    log_folder.set(tmp_path)
    report_interrupt()
    (tmp_path / "config.yaml").touch()
    report_interrupt()
    assert capsys.readouterr().err.splitlines() == [
        "interrupted",
        f"interrupted; go on with: safe-fedllm run --resume {tmp_path}",
    ]
