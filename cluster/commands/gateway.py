"""`safe-fedllm enroll`, `revoke` and `join`: clients outside the cluster, on the server's side and on the participant's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cluster.commands.options import Arguments, load_arguments, path_option
from cluster.commands.progress import print_line
from cluster.errors import ConfigError

ClientId = Annotated[str, typer.Argument(metavar="ID", help="Of the client, such as client-003.")]


def enroll(client: ClientId, arguments: Arguments = None) -> None:
    """Invite a participant: prints one line for `safe-fedllm join --invitation`, good for one key.

    Example: safe-fedllm enroll client-003 my.yaml gateway.address=fed.example.org
    """
    from actors.remote.enrolment import Enrolments, Invitation
    from actors.remote.keys import make_certificate
    from cluster.workers.gateway import certificate_files, enrolments_file, public_host

    config = load_arguments(arguments)
    certificate, key = certificate_files(config)
    if not certificate.is_file() and config.gateway.certificate is None:
        make_certificate(public_host(config), certificate, key)
    if not certificate.is_file():
        raise ConfigError(f"gateway.certificate={certificate} is not there; name a PEM file, or leave it out")
    host = public_host(config)
    invitation = Invitation(
        url=f"https://{f'[{host}]' if ':' in host else host}:{config.gateway.port}",
        client_id=client,
        secret=Enrolments(enrolments_file(config)).invite(client),
        certificate=certificate.read_text(),
    )
    typer.echo(invitation.text())


def revoke(client: ClientId, arguments: Arguments = None) -> None:
    """Let nobody speak for a client any more, for good; holds from its next request on."""
    from actors.remote.enrolment import Enrolments
    from cluster.workers.gateway import enrolments_file

    Enrolments(enrolments_file(load_arguments(arguments))).revoke(client)
    print_line(f"client {client} is revoked")


def join(
    data: Annotated[list[Path], path_option("Your instruction data; may be given several times. It stays here.")],
    model: Annotated[str, typer.Option(help="Your copy of the base model: a folder or a hub name.")],
    key: Annotated[Path, path_option("Your key file; the first time it is made.")] = Path("client.key"),
    invitation: Annotated[str | None, typer.Option(help="The line that the operator sent you; the first time only.")] = None,
) -> None:
    """Take part in a federation from this machine until it ends: only HTTPS goes out, and no Ray is needed.

    Example: safe-fedllm join --invitation eyJ1... --data my.jsonl --model ./base
    """
    from actors.remote.connection import connect
    from actors.remote.enrolment import Invitation
    from actors.remote.keys import load_key, make_key, write_private
    from actors.remote.participant import Participant

    place = key.with_name(f"{key.name}.json")
    if invitation is not None:
        invited = Invitation.parse(invitation)
        private = load_key(key) if key.exists() else make_key(key)
        connection = connect(invited, private, print_line)
        connection.enrol(invited.secret)
        place.unlink(missing_ok=True)
        write_private(place, invited.model_copy(update={"secret": ""}).model_dump_json().encode())
    elif not (key.is_file() and place.is_file()):
        raise ConfigError(f"--key {key}: {key} and {place} are not both there; the first time, give --invitation")
    else:
        connection = connect(Invitation.model_validate_json(place.read_bytes()), load_key(key), print_line)
    Participant(connection, model, data, key.with_name(f"{key.name}.data"), print_line).run()
