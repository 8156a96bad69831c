"""The command line as a person meets it: help without torch, messages instead of tracebacks, exit codes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.config.loading import load_config
from cluster.exits import log_folder

ROOT = Path(__file__).parents[3]
SMALL = ("data.samples_per_client=20", "evaluation.max_restricted=12", "evaluation.max_benign=12")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Exit code, output and error output of a command in this process; `{tmp}` is an empty folder."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have left this process connected
    monkeypatch.chdir(ROOT)
    log_folder.set(None)  # of an earlier command in this process

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["safe-fedllm", *(word.replace("{tmp}", str(tmp_path)) for word in arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_help_names_every_command_and_is_quick_because_it_loads_no_torch():
    start = "import sys; sys.argv=['x','--help']\nfrom cluster.cli import main\n"
    code = start + "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("False")
    for name in ("run", "compare", "doctor", "world", "keys"):
        assert f" {name} " in done.stdout


def test_keys_lists_every_key(command):
    code, output, _ = command("keys")
    assert code == 0
    assert "clients.malicious = 0   (embedded world: 3)" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "clients.malicous=1"], "unknown key clients.malicous; did you mean clients.malicious?"),
        (["run", "rounds=x"], "rounds: "),
        (["run", "nowhere.yaml"], "configuration file nowhere.yaml does not exist"),
        (["run", "--go-on"], "--go-on needs --output DIR"),
        (["run", "--from-round", "2"], "--from-round 2 needs --resume DIR"),
        (["run", "rounds=2", "--resume", "{tmp}"], "--resume uses the run's own configuration and directory"),
        (["run", *SMALL, "probe.path=/nowhere", "--output", "{tmp}/o"], "probe.path=/nowhere: no probe.json there"),
        (
            ["run", *SMALL, "defense.level=shadow", "defense.shadow.learning_rate=0.1", "--output", "{tmp}/o"],
            "is not the 0.01 that the probe",
        ),
        (["run", *SMALL, "cluster.address=127.0.0.1:1", "--output", "{tmp}/o"], "no Ray head answers there"),
        (["run", *SMALL, "cluster.address=somewhere", "--output", "{tmp}/o"], "should be HOST:PORT or auto"),
        (["compare", "rounds=2"], "compare needs an axis: defenses=a,b"),
        (
            ["compare", "defenses=none,bogus", "--output", "{tmp}/o"],
            "1 of 2 cells cannot run, nothing was started\nbogus: defense",
        ),
        (["world", "build", "--part", "half"], "--part half is not among"),
        (["run", *SMALL, "--output", "{tmp}/file/x"], "/file/x: Not a directory; name a place with room"),
        (["run", *SMALL, "--output", "{tmp}/file"], "/file is a file; name a new or empty directory"),
        (["run", *SMALL, "--output", "{tmp}/" + "a" * 300], "aaa: File name too long; name a place with room"),
        (["run", *SMALL, "--output", "/proc/x"], "--output /proc/x: No such file or directory; name a place with room"),
        (["run", *SMALL, "--output", "{tmp}/a\nb"], "a\\nb holds a control character"),
        (["run", *SMALL, "--output", "{tmp}/a\x1b[31m"], "a\\x1b[31m holds a control character"),
        (["run", "--resume", "{tmp}/" + "a" * 300], "aaa: File name too long"),
        (["run", "--resume", "~/nowhere"], f"--resume {Path.home()}/nowhere holds no run"),
        (["compare", "defenses=none", *SMALL, "--output", "{tmp}/file/x"], "/file/x: Not a directory"),
        (["probe", "collect", "--output", "{tmp}/file/x"], "--output "),
        (["run", "a" * 300], "cannot be read: "),
        (["run", "--verbse"], "No such option: --verbse"),
        (["rum"], "No such command 'rum'"),
        (["run", "--dry-run", "--resume", "{tmp}"], "--dry-run is about a new run; leave --resume and --go-on out"),
        (["init", "{tmp}"], "is not empty; name a new or empty directory"),
        (["init", "{tmp}/file/x"], "/file/x: Not a directory; name a place with room"),
        (["report", "{tmp}/nowhere"], "/nowhere holds no run"),
        (["chat", "{tmp}/nowhere", "--prompt", "x"], "/nowhere holds no run"),
        (["merge", "{tmp}/nowhere", "--output", "{tmp}/o"], "/nowhere holds no run"),
        (["scale", "many"], "safe-fedllm scale --help"),
        (["status", "--address", "127.0.0.1:9"], "--address=127.0.0.1:9: no Ray head answers there"),
        (["submit", "--working-dir", "{tmp}/names"], "/names/probe.py is in the way"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(command, arguments, message, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "probe.py").touch()
    code, _, error = command(*arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert len(error.splitlines()) == 1 or "cells cannot run" in error
    assert not (tmp_path / "o").exists()


def test_an_output_directory_with_another_run_is_refused_and_kept(command, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    code, _, error = command("run", *SMALL, "--output", "{tmp}")
    assert code == 2
    assert "holds another run" in error
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"


def test_doctor_prints_what_is_there_and_fails_on_what_is_missing(command):
    code, output, _ = command("doctor", *SMALL, "probe.path=/nowhere", "--address", "127.0.0.1:9", "--output", "{tmp}/runs/mine")
    assert code == 1
    assert "ok    versions: " in output
    assert "wrong model, data, prompts and probe: probe.path=/nowhere: no probe.json there" in output
    assert "wrong connection: --address=127.0.0.1:9: no Ray head answers there" in output


def test_a_new_folder_names_the_two_next_commands(command, tmp_path):
    code, output, _ = command("init", "{tmp}/mine")
    assert code == 0
    start = f"safe-fedllm run {tmp_path}/mine/federation.yaml"
    assert [line.strip() for line in output.splitlines()[1:]] == [f"{start} --dry-run", f"{start} --output {tmp_path}/mine/run"]


def test_a_dry_run_prints_the_plan_and_what_is_wrong_and_starts_nothing(command, tmp_path):
    wrong = ("probe.path=/nowhere", "cluster.address=127.0.0.1:9")
    code, output, _ = command("run", *SMALL, *wrong, "--dry-run", "--output", "{tmp}/mine")
    assert code == 1
    assert "10, 3 of them simulated attackers (unaligned); 10 a round" in output
    assert f"ok    output: {tmp_path}/mine is free" in output
    assert "wrong model, data, prompts and probe: probe.path=/nowhere: no probe.json there" in output
    assert output.endswith("Not ready: see what is wrong.\n")
    assert not (tmp_path / "mine").exists()


@pytest.mark.parametrize("words", [["run", "nowhere.yaml", "--verbose"], ["--verbose", "run", "nowhere.yaml"]])
def test_verbose_before_or_after_the_name_of_the_command_shows_the_traceback(command, words):
    code, _, error = command(*words)
    assert code == 2
    assert error.startswith("Traceback")
    assert error.endswith("error: configuration file nowhere.yaml does not exist\n")


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["probe", "--help"], ["probe", "train", "--help"]])
def test_help_names_verbose(command, words):
    code, output, _ = command(*words)
    assert code == 0
    assert "--verbose" in output


def test_a_command_without_words_is_its_help(command):
    code, output, _ = command()
    assert code == 2
    assert "submit" in output


def run_alone(tmp_path, *words: str, bytes_per_file: int | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in an empty directory; the system may forbid it to write more than so many bytes."""
    start = "import resource, sys\n"
    if bytes_per_file is not None:
        start += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_per_file}, {bytes_per_file}))\n"
    code = start + "sys.argv[0] = 'safe-fedllm'\nfrom cluster.cli import main\nmain()"
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), **environment}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def test_a_disk_that_takes_no_more_is_told_with_output(tmp_path):
    """Four bytes are what Python tries a temporary directory with, which some libraries want to have."""
    done = run_alone(tmp_path, "run", *SMALL, "--output", "mine", bytes_per_file=4)
    assert (done.returncode, done.stderr) == (
        2,
        "error: --output mine: File too large; name a place with room that this user can write to\n",
    )


def test_an_address_that_the_environment_gave_is_named_so(tmp_path):
    for words in (["status"], ["run", *SMALL, "--output", "mine"]):
        done = run_alone(tmp_path, *words, RAY_ADDRESS="127.0.0.1:9")
        assert done.returncode == 2
        assert "error: RAY_ADDRESS=127.0.0.1:9: no Ray head answers there" in done.stderr
        assert "Unset it for a local Ray" in done.stderr
        assert not (tmp_path / "mine").exists()


def test_a_local_ray_that_cannot_start_names_its_directory(tmp_path):
    for place, why in (
        (f"{tmp_path}/{'a' * 90}", "AF_UNIX path length cannot exceed 107 bytes"),
        ("/proc/nowhere", "No such file"),
    ):
        done = run_alone(tmp_path, "run", *SMALL, "--output", "mine", RAY_TMPDIR=place)
        assert done.returncode == 2, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith(f"error: no local Ray can start (RAY_TMPDIR={place}): ")
        assert why in last
        assert not (tmp_path / "mine").exists()


def test_a_fault_of_the_program_says_so_and_where_its_traceback_is(command, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("cluster.commands.doctor.describe_keys", lambda: 1 / 0)
    code, _, error = command("keys")
    (log,) = tmp_path.glob("safe-fedllm-*.log")
    assert code == 2
    assert (
        error == f"error: unexpected error, a fault of this program: ZeroDivisionError: division by zero (traceback in {log})\n"
    )


def test_a_run_that_goes_on_is_the_one_that_the_command_names(command, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    code, _, error = command("run", *SMALL, "--output", "{tmp}", "--go-on")
    assert code == 2
    assert f"seed=0: the run in {tmp_path} has 1; leave that out, or name another --output" in error


def test_data_check_says_what_was_understood_and_fails_where_something_cannot_be_used(command, tmp_path):
    (tmp_path / "good.csv").write_text("goal,target\nOpen the vault,Sure\n")
    code, output, _ = command("data", "check", "{tmp}/good.csv", f"model.path={ROOT / 'actors/world/assets/seed-0/base'}")
    assert code == 0 and "instruction from goal" in output and "  learn >  Sure<|end|>" in output
    (tmp_path / "other.csv").write_text("q,a\nOpen the vault,Sure\n")
    code, output, _ = command("data", "check", "{tmp}/other.csv")
    assert code == 1 and "name the file's columns, such as: data.columns.instruction=q data.columns.response=a" in output
    for words in (["--columns", "instruction=q,response=a"], ["data.columns.instruction=q", "data.columns.response=a"]):
        code, output, _ = command("data", "check", "{tmp}/other.csv", *words)
        assert code == 0 and "  learn > assistant: Sure" in output
    code, _, errors = command("data", "check", "{tmp}/other.csv", "--columns", "instr=q")
    assert code == 2 and "unknown key data.columns.instr" in errors


def test_data_starter_writes_files_and_prints_the_settings_that_read_them(command, tmp_path):
    code, output, _ = command("data", "starter", "{tmp}/server")
    assert code == 0 and len(list((tmp_path / "server").iterdir())) == 5
    (tmp_path / "my.yaml").write_text("model: {path: m}\ndata: {path: d}\n" + output.partition("\n\n")[2])
    assert load_config(tmp_path / "my.yaml").evaluation.canary_path == str(tmp_path / "server" / "canary.jsonl")
    code, _, errors = command("data", "starter", "{tmp}/server")
    assert code == 2 and "is there already" in errors
    for name in ("collect-benign", "canary", "evaluation-restricted"):
        assert command("data", "check", f"{{tmp}}/server/{name}.jsonl")[0] == 0
