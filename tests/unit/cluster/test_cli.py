"""The command line as a person meets it: help without torch, messages instead of tracebacks, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def command(*arguments: str, timeout_s: float = 120, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd or ROOT,
        env=None,
        check=False,
    )


def test_help_names_every_command_and_is_quick_because_it_loads_no_torch():
    start = "import sys; sys.argv=['x','--help']\nfrom cluster.cli import main\n"
    code = start + "try: main()\nexcept SystemExit: pass\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True)
    assert done.stdout.strip().endswith("False")
    for name in ("run", "compare", "doctor", "world", "keys"):
        assert f" {name} " in done.stdout


def test_keys_lists_every_key():
    done = command("keys")
    assert done.returncode == 0
    assert "clients.malicious = 0   (embedded world: 3)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "clients.malicous=1"], "unknown key clients.malicous; did you mean clients.malicious?"),
        (["run", "rounds=x"], "rounds: "),
        (["run", "nowhere.yaml"], "configuration file nowhere.yaml does not exist"),
        (["run", "probe.path=/nowhere", "--output", "{tmp}/o"], "probe.path=/nowhere: no probe.json there"),
        (
            ["run", "defense.level=shadow", "defense.shadow.learning_rate=0.1", "--output", "{tmp}/o"],
            "is not the 0.01 that the probe",
        ),
        (["run", "cluster.address=127.0.0.1:1", "--output", "{tmp}/o"], "no Ray head answers there"),
        (["run", "cluster.address=somewhere", "--output", "{tmp}/o"], "should be HOST:PORT or auto"),
        (["compare", "rounds=2"], "compare needs an axis: defenses=a,b"),
        (
            ["compare", "defenses=none,bogus", "--output", "{tmp}/o"],
            "1 of 2 cells cannot run, nothing was started\nbogus: defense",
        ),
        (["world", "build", "--part", "half"], "--part half is not among"),
    ],
)
def test_errors_are_one_message_and_exit_code_2(arguments, message, tmp_path):
    done = command(*(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o").exists()


def test_an_output_directory_with_another_run_is_refused_and_kept(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    done = command("run", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "holds another run" in done.stderr
    assert (tmp_path / "config.yaml").read_text() == "seed: 1\n"


def test_doctor_says_what_is_there_and_fails_on_what_is_missing():
    good = command("doctor")
    assert good.returncode == 0
    assert "torch" in good.stdout
    assert "10 clients" in good.stdout
    bad = command("doctor", "probe.path=/nowhere")
    assert bad.returncode == 1
    assert "wrong" in bad.stdout
    assert "no probe.json" in bad.stdout
