"""A real server on a run directory: who may read it, that it follows the run, and the command that starts it."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from cluster.config.loading import load_config
from cluster.errors import ConfigError
from cluster.reporting.event_log import EventLog
from cluster.watching.following import Followed, newest_run
from cluster.watching.server import PageServer
from tests.unit.cluster.report.run_directories import four_clients, write_run

ROOT = Path(__file__).parents[4]
ROUNDS = load_config(None).rounds


@pytest.fixture
def path(tmp_path):
    return write_run(tmp_path / "mine", four_clients(2), summary=False)


@pytest.fixture
def server(path):
    with PageServer(Followed(path)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, place: str, method: str = "GET") -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    connection.request(method, place)
    answer = connection.getresponse()
    found = answer.status, dict(answer.headers), answer.read().decode()
    connection.close()
    return found


def go_on(path) -> None:
    """The run ends: the files are those after three rounds."""
    shutil.rmtree(path)
    write_run(path, four_clients(3))


def test_it_serves_the_report_to_who_has_the_token(server):
    status, headers, page = ask(server, f"/{server.token}/")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"2 of {ROUNDS} rounds" in page
    assert "connect-src 'self'" in page
    assert ask(server, f"/{server.token}/version")[2] in page
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    assert server.url == f"http://127.0.0.1:{server.server_address[1]}/{server.token}/"
    assert server.is_local


@pytest.mark.parametrize(
    "place", ["/", "/version", "/{}", "/{}/../", "/{}/config.yaml", "/{}/?", "/x{}/", "/%2e%2e/etc/passwd", "/\xe9"]
)
def test_every_other_place_is_not_found(server, place):
    with socket.create_connection(server.server_address[:2], timeout=30) as connection:
        connection.sendall(f"GET {place.format(server.token)} HTTP/1.0\r\n\r\n".encode("latin-1"))
        answer = connection.makefile("rb").read().decode()
    assert answer.split()[1] == "404"
    assert answer.endswith("\r\n\r\nnot found\n")
    assert "rounds" not in answer


def test_it_reads_only(server):
    assert ask(server, f"/{server.token}/", "POST")[0] == 501


def test_tokens_are_long_and_differ(path):
    with PageServer(Followed(path)) as one, PageServer(Followed(path)) as other:
        assert one.token != other.token
        assert len(one.token) >= 43


def test_the_page_follows_the_run_and_survives_its_end(server, path):
    version = ask(server, f"/{server.token}/version")[2]
    assert ask(server, f"/{server.token}/version")[2] == version
    go_on(path)
    assert ask(server, f"/{server.token}/version")[2] != version
    assert f"3 of {ROUNDS} rounds" in ask(server, f"/{server.token}/")[2]


def test_while_a_round_goes_on_it_says_who_has_delivered_trains_and_is_late(server, path):
    log = EventLog(path / "events.jsonl", "mine")
    assert ask(server, f"/{server.token}/progress")[2] == ""
    log.members_changed(["a", "b", "c", "<b>\x1b[31m"])
    log.state_changed("running")
    log.round_started(2, ["a", "b", "c", "<b>\x1b[31m"])
    log.client_done("a")
    log.client_done("b", "late: no update within clients.timeout_s=120 s")
    status, headers, text = ask(server, f"/{server.token}/progress")
    assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    expected = f"mine: round 3 of {ROUNDS}; delivered 1 of 4 clients; training c, <b>\\x1b[31m; late b"
    assert text == expected
    (path / "summary.json").write_text("{}")
    assert ask(server, f"/{server.token}/progress")[2] == ""


def test_a_comparison_is_served_side_by_side_with_the_progress_of_each_run(tmp_path):
    folder = tmp_path / "matrix"
    for name in ("one", "other"):
        write_run(folder / name, four_clients(2), summary=False)
    log = EventLog(folder / "other" / "events.jsonl", "other")
    log.state_changed("running")
    log.round_started(1, [])
    with PageServer(Followed(folder)) as server:
        followed = server.followed
        assert "Side by side" in followed.page()
        assert followed.progress() == f"other: round 2 of {ROUNDS}"
        version = followed.version()
        write_run(folder / "third", four_clients(2), summary=False)
        assert followed.version() != version
        assert "3 Safe-FedLLM runs" in followed.page()
    assert newest_run(tmp_path) == folder


def test_before_the_first_round_it_waits(server, path):
    (path / "rounds.parquet").unlink()
    status, _, page = ask(server, f"/{server.token}/")
    assert (status, "There is no report yet" in page, "no committed round yet" in page) == (200, True, True)
    go_on(path)
    assert f"3 of {ROUNDS} rounds" in ask(server, f"/{server.token}/")[2]


def test_a_port_that_is_taken_is_an_error_that_names_it(server, path):
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=f"--host 127.0.0.1 --port {port}: "):
        PageServer(Followed(path), port=port)


def test_a_place_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="holds no run"):
        Followed(tmp_path)
    with pytest.raises(ConfigError, match="holds no run"):
        newest_run(tmp_path)


def test_the_newest_run_is_taken(tmp_path):
    for age, name in enumerate(["new", "old"]):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").touch()
        os.utime(tmp_path / name / "config.yaml", (1000 - age, 1000 - age))
    assert newest_run(tmp_path).name == "new"


def test_the_command_prints_the_address_and_serves_until_ctrl_c(path):
    command = [sys.executable, "-m", "cluster", "watch", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        url = process.stdout.readline().partition("http://")[2].split()[0]
        with urllib.request.urlopen(f"http://{url}version", timeout=30) as answer:
            assert len(answer.read()) == 16
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.strip()) == (130, "interrupted")
