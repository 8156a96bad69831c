"""The command line as a person meets it: help without torch, messages instead of tracebacks, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import main

ROOT = Path(__file__).parents[3]
SMALL = ("data.samples_per_client=20", "evaluation.max_restricted=12", "evaluation.max_benign=12")


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Exit code, output and error output of a command in this process; `{tmp}` is an empty folder."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)  # other tests may have left this process connected
    monkeypatch.chdir(ROOT)

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
    ],
)
def test_errors_are_one_message_and_exit_code_2(command, arguments, message, tmp_path):
    code, _, error = command(*arguments)
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
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
    assert "wrong connection: cluster.address=127.0.0.1:9: no Ray head answers there" in output


def test_a_run_that_goes_on_is_the_one_that_the_command_names(command, tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    code, _, error = command("run", *SMALL, "--output", "{tmp}", "--go-on")
    assert code == 2
    assert f"seed=0: the run in {tmp_path} has 1; leave that out, or name another --output" in error
