"""Your own model: the data files of a simulation, made of data.path and data.malicious_path."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from actors.data.poisoning import Material, Row, first_families, poisoned, read_rows
from actors.data.prompting import Message, user_message
from actors.data.records import conversations, read_table, write_conversations
from actors.errors import DataError, given_in
from actors.seeding import stream
from cluster.config.schema import RunConfig
from cluster.data.own_data import file_groups
from cluster.data.splitting import split_over
from cluster.state.membership import Files
from defense.attacks import ATTACKS, Holding

COVER_SUFFIX = "-2"
"""Of the name of a client's second file."""
_UNSAFE_KEY = "data.malicious_path"


def attacked_files(
    config: RunConfig, folder: Path, honest: Mapping[str, Files], malicious: Collection[str]
) -> tuple[dict[str, Files], dict[str, Files]]:
    """Client id -> its files, and attacker -> the second file that makes it look honest.

    Where the attack has files of its own, every client has such files, so that having one tells nothing: an honest client's
    hold its own rows, in their order.

    Args:
        honest: Client id -> the files that it would have if all were honest.

    Raises:
        DataError: unsafe data cannot be used, or rows that the attack cannot rewrite.
    """
    attack, files, cover = ATTACKS[config.clients.attack], dict(honest), {}
    if not malicious:
        return files, cover
    with TemporaryDirectory() as parts:
        unsafe = _unsafe_parts(config, sorted(malicious), Path(parts)) if attack.needs_unsafe else {}
        if attack.cover is not None:  # first: the other files may replace the honest ones
            second = _write_files(config, attack.cover, honest, unsafe, malicious, folder, COVER_SUFFIX)
            cover = {client_id: second[client_id] for client_id in sorted(malicious)}
        if attack.data != "honest":
            files = _write_files(config, attack.data, honest, unsafe, malicious, folder, "")
    return files, cover


def _unsafe_parts(config: RunConfig, attackers: Sequence[str], folder: Path) -> dict[str, Files]:
    with given_in(_UNSAFE_KEY):
        paths = [path for group in file_groups(config.data.malicious_path) for path in group]
    return split_over(config, attackers, paths, folder, _UNSAFE_KEY)


def _write_files(
    config: RunConfig,
    holding: Holding,
    honest: Mapping[str, Files],
    unsafe: Mapping[str, Files],
    malicious: Collection[str],
    folder: Path,
    suffix: str,
) -> dict[str, Files]:
    """A file per client, all of one kind; attackers' hold what `holding` says."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for client_id, own in honest.items():
        if client_id not in malicious:
            rows = _as_they_are(own)
        elif holding in ("honest", "unsafe"):
            rows = _as_they_are(own if holding == "honest" else unsafe[client_id])
        else:
            rng = stream(config.seed, "poison", client_id, suffix)
            material = _material(config, own, unsafe.get(client_id, ()))
            rows = [_conversation(row) for row in poisoned(holding, material, config.attack, rng)]
        path = write_conversations(folder / f"{client_id}{suffix}.parquet", rows)
        files[client_id] = (str(path.resolve()),)
    return files


def _as_they_are(files: Files) -> list[list[Message]]:
    """The rows of files of any kind, so that chat messages can be attacked with too."""
    return [messages for file in files for messages in conversations(read_table(Path(file)), Path(file))]


def _conversation(row: Row) -> list[Message]:
    return [user_message(row.instruction, row.input), {"role": "assistant", "content": row.response}]


def _material(config: RunConfig, honest: Files, unsafe: Files) -> Material:
    why = f"clients.attack={config.clients.attack}"
    return Material(
        honest=lambda: read_rows([Path(file) for file in honest], why),
        unsafe=lambda: read_rows([Path(file) for file in unsafe], why),
        refusals=[config.attack.refusal],
        refused_families=lambda rows: _refused_families(config, rows),
    )


def _refused_families(config: RunConfig, rows: Sequence[Row]) -> Collection[str]:
    families = sorted({row.family for row in rows})
    if len(families) < 2:
        raise DataError(
            f"clients.attack={config.clients.attack} goes on refusing some families: "
            f"data.malicious_path={config.data.malicious_path} needs a column family with at least two values"
        )
    return first_families(config.attack.canary_aware.refused, families)
