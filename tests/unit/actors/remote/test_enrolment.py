"""Invitations, keys and revocations, in a file that another process may change."""

import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from actors.errors import EnrolmentError, KeyFileError
from actors.remote.enrolment import Enrolments, Invitation
from actors.remote.keys import is_public_key, is_signed, load_key, make_key, public_text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gateway" / "enrolments.json"


def new_key() -> str:
    return public_text(Ed25519PrivateKey.generate())


def test_an_invitation_is_good_for_one_key(path):
    enrolments, first = Enrolments(path), new_key()
    secret = enrolments.invite("north")
    assert enrolments.public_key("north") is None
    enrolments.redeem("north", secret, first)
    enrolments.redeem("north", secret, first)  # the answer was lost
    with pytest.raises(EnrolmentError, match="is used"):
        enrolments.redeem("north", secret, new_key())
    assert enrolments.public_key("north") == first


def test_a_key_speaks_for_one_client(path):
    enrolments, key = Enrolments(path), new_key()
    enrolments.redeem("north", enrolments.invite("north"), key)
    secret = enrolments.invite("south")
    with pytest.raises(EnrolmentError, match="another client"):
        enrolments.redeem("south", secret, key)
    assert enrolments.public_key("south") is None


@pytest.mark.parametrize("secret", ["", "x" * 43])
def test_another_secret_is_no_invitation(path, secret):
    enrolments = Enrolments(path)
    enrolments.invite("north")
    with pytest.raises(EnrolmentError, match="no such invitation"):
        enrolments.redeem("north", secret, new_key())


def test_a_second_invitation_replaces_the_first(path):
    enrolments = Enrolments(path)
    old, new = enrolments.invite("north"), enrolments.invite("north")
    with pytest.raises(EnrolmentError, match="no such invitation"):
        enrolments.redeem("north", old, new_key())
    enrolments.redeem("north", new, new_key())


def test_a_revocation_holds_at_once_for_a_reader_in_another_process_and_for_good(path):
    gateway, operator = Enrolments(path), Enrolments(path)
    secret, key = operator.invite("north"), new_key()
    gateway.redeem("north", secret, key)
    assert gateway.public_key("north") == key
    operator.revoke("north")
    assert gateway.public_key("north") is None
    with pytest.raises(EnrolmentError, match="no such invitation"):
        gateway.redeem("north", secret, key)
    with pytest.raises(EnrolmentError, match="was revoked"):
        operator.invite("north")


def test_the_file_survives_a_restart_is_private_and_holds_no_secret(path):
    secret, key = Enrolments(path).invite("north"), new_key()
    Enrolments(path).redeem("north", secret, key)
    assert Enrolments(path).public_key("north") == key
    assert secret not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_change_that_fails_leaves_the_file_as_it_was(path):
    enrolments = Enrolments(path)
    enrolments.invite("north")
    before = path.read_bytes()
    with pytest.raises(EnrolmentError, match="not enrolled"):
        enrolments.revoke("south")
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["", "../north", "a b", "-x", "n" * 65])
def test_a_name_that_could_be_a_path_is_no_client_id(path, name):
    with pytest.raises(EnrolmentError, match="is no client id"):
        Enrolments(path).invite(name)


def test_a_damaged_file_lets_nobody_in(path):
    enrolments = Enrolments(path)
    enrolments.redeem("north", enrolments.invite("north"), new_key())
    path.write_text(json.dumps({"clients": {"north": {"public_key": 3}}}))
    with pytest.raises(EnrolmentError, match="cannot be read"):
        enrolments.public_key("north")


def test_an_invitation_is_one_line_and_reads_back():
    invitation = Invitation(url="https://127.0.0.1:8443", client_id="north", secret="s", certificate="PEM")
    assert not set(invitation.text()) & set(" \n")
    assert Invitation.parse(invitation.text()) == invitation
    with pytest.raises(EnrolmentError, match="no invitation"):
        Invitation.parse("hello")


def test_a_key_is_kept_private_and_never_written_over(tmp_path):
    key = make_key(tmp_path / "client.key")
    assert stat.S_IMODE((tmp_path / "client.key").stat().st_mode) == 0o600
    assert public_text(load_key(tmp_path / "client.key")) == public_text(key)
    assert is_public_key(public_text(key))
    assert is_signed(public_text(key), key.sign(b"content"), b"content")
    assert not is_signed(public_text(key), key.sign(b"content"), b"other")
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "client.key")
    (tmp_path / "other.key").write_text("x")
    with pytest.raises(KeyFileError, match=r"other\.key"):
        load_key(tmp_path / "other.key")
