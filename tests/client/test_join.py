"""What `feat-fed join` makes at a hospital, and what it leaves alone."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from feat_fed.cli.main import run_app
from feat_fed.config import load_site
from feat_fed.errors import ConfigError
from feat_fed.joining import JoinRequest, Token
from feat_fed.processes import free_port
from feat_fed_client.join import prepare, read_token


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator whose server does not run."""
    root = tmp_path_factory.mktemp("coordinator")
    federation = root / "federation.yaml"
    federation.write_text(f"address: 127.0.0.1:{free_port()}\nsites: [a, b]\n")
    assert run_app(["provision", str(federation)]) == 0
    return root


@pytest.fixture
def token(made: Path) -> Token:
    return Token.parse((made / "tokens" / "a.token").read_text())


def test_a_token_is_text_or_a_file(made: Path, token: Token, tmp_path: Path) -> None:
    file = made / "tokens" / "a.token"
    assert read_token(str(file)) == read_token(file.read_text()) == token
    with pytest.raises(ConfigError, match="does not exist"):
        read_token(str(tmp_path / "absent.token"))
    with pytest.raises(ConfigError, match="no join token"):
        read_token("hello")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00" * 100)
    with pytest.raises(ConfigError):
        read_token(str(tmp_path / "binary"))


def test_a_new_site_gets_its_files_and_can_load_them(token: Token, tmp_path: Path) -> None:
    (data := tmp_path / 'clips "of" 2026: #1').mkdir()
    prepared = prepare(token, tmp_path / "site.yaml", (data,))
    site = load_site(tmp_path / "site.yaml")
    assert (site.name, site.data.paths) == ("a", (data,))
    assert site.server is not None and site.server.address == token.address
    assert site.server.private_key.stat().st_mode & 0o077 == 0
    assert site.server.ca_certificate.read_text() == token.ca_certificate
    assert prepared.to_do == ()
    assert "PRIVATE KEY" not in prepared.request.model_dump_json()
    again = prepare(token, tmp_path / "site.yaml", ())
    assert again.request.public_key == prepared.request.public_key


def test_data_for_a_file_that_is_there_are_not_passed_over_in_silence(
    token: Token, tmp_path: Path
) -> None:
    file = tmp_path / "site.yaml"
    (data := tmp_path / "clips").mkdir()
    prepare(token, file, (data,))
    assert prepare(token, file, (data,)).to_do == ()
    [to_do] = prepare(token, file, (tmp_path,)).to_do
    assert f"set data.paths: [{tmp_path}]" in to_do


def test_hospitals_that_join_at_once_in_one_folder_have_their_own_keys(
    made: Path, token: Token, tmp_path: Path
) -> None:
    other = Token.parse((made / "tokens" / "b.token").read_text())

    def join(each: Token, file: str) -> str | None:
        with contextlib.suppress(ConfigError):
            return prepare(each, tmp_path / file, ()).request.fingerprint
        return None

    with ThreadPoolExecutor(6) as pool:
        found = [
            [pool.submit(join, each, name) for each, name in ((token, "a.yaml"), (other, "b.yaml"))]
            for _ in range(3)
        ]
        mixed = [pool.submit(join, each, "site.yaml") for each in (token, other)]
        keys = [{each.result() for each in column} for column in zip(*found, strict=True)]
    assert [len(each) for each in keys] == [1, 1] and keys[0] != keys[1]
    assert sorted(each.result() is None for each in mixed) == [False, True]
    sites = [load_site(tmp_path / f"{name}.yaml") for name in "ab"]
    assert sites[0].store != sites[1].store


def test_without_data_a_person_is_told_what_to_set(token: Token, tmp_path: Path) -> None:
    prepared = prepare(token, tmp_path / "site.yaml", ())
    assert prepared.to_do == (f"set data.paths in {tmp_path / 'site.yaml'}",)
    absent = prepare(token, tmp_path / "b.yaml", (tmp_path / "no",)).to_do
    assert "does not exist: make it, or set data.paths" in absent[0]


def test_a_key_of_keygen_is_taken(token: Token, tmp_path: Path) -> None:
    assert run_app(["keygen", str(tmp_path / "site.key")]) == 0
    prepared = prepare(token, tmp_path / "site.yaml", ())
    assert (tmp_path / "site.pub").read_text().startswith(prepared.request.public_key)


def test_what_is_there_is_compared_and_kept(token: Token, tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    prepare(token, file, ())
    tree = yaml.safe_load(file.read_text())

    def write(**changes: object) -> str:
        file.write_text(yaml.safe_dump(tree | changes))
        return file.read_text()

    write(name="b")
    with pytest.raises(ConfigError, match="the token is for a"):
        prepare(token, file, ())
    text = write(server=tree["server"] | {"address": "elsewhere:1"})
    assert prepare(token, file, ()).to_do == (f"set server.address: {token.address} in {file}",)
    assert file.read_text() == text
    write(server=None)
    with pytest.raises(ConfigError, match="server: not set"):
        prepare(token, file, ())
    write()
    (tmp_path / "ca.crt").write_text("another")
    with pytest.raises(ConfigError, match="of another server than the token's"):
        prepare(token, file, ())


def test_a_key_that_is_to_be_replaced_stays_beside_the_new_one(
    token: Token, tmp_path: Path
) -> None:
    file = tmp_path / "site.yaml"
    first = prepare(token, file, ()).request
    old = (tmp_path / "site.key").read_bytes()
    rotation = token.model_copy(update={"replaces": first.fingerprint})
    second = prepare(rotation, file, ())
    assert (tmp_path / "site.key").read_bytes() == old
    assert second.request.public_key != first.public_key
    assert "server.private_key: site-2.key" in second.to_do[0]
    assert prepare(rotation, file, ()).request.public_key == second.request.public_key
    file.write_text(file.read_text().replace("site.key", "site-2.key"))
    third = prepare(token.model_copy(update={"replaces": second.request.fingerprint}), file, ())
    assert "site-3.key" in third.to_do[0]


def test_a_request_that_cannot_be_delivered_goes_by_mail_and_is_approved(
    made: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    site, federation = tmp_path / "site.yaml", str(made / "federation.yaml")
    token = (made / "tokens" / "b.token").read_text()
    assert run_app(["join", token, "--site-config", str(site)]) == 0
    assert "send" in capfd.readouterr().err
    request = JoinRequest.parse((tmp_path / "b.join").read_bytes().strip())
    approve = ["provision", "approve", federation, "b"]
    by_mail = ["--request", str(tmp_path / "b.join")]
    assert run_app([*approve, "--fingerprint", request.fingerprint]) == 1
    assert "has not asked to join" in capfd.readouterr().err
    assert run_app([*approve, *by_mail, "--fingerprint", "0000 " * 8]) == 1
    assert "do not approve it" in " ".join(capfd.readouterr().err.split())
    assert run_app(["provision", "approve", federation, "a", *by_mail]) == 1
    assert "a request of b" in capfd.readouterr().err
    assert run_app(["provision", "approve", federation, "c", *by_mail]) == 1
    assert "add it there first" in capfd.readouterr().err
    assert run_app([*approve, *by_mail, "--fingerprint", request.fingerprint]) == 0
    assert run_app(["provision", "status", federation]) == 0
    told = capfd.readouterr().out
    assert request.fingerprint in told and "token until" in told
    assert run_app(["provision", "revoke", federation, "b"]) == 0
    assert run_app(["provision", federation]) == 0
    assert not (made / "tokens" / "b.token").exists()  # a site that was taken out gets none
    assert run_app(["provision", "status", federation]) == 0
    assert "b: a key was revoked on" in capfd.readouterr().out


def test_renewal_keeps_the_ca_and_the_names(made: Path) -> None:
    before = [(made / "tls" / name).read_bytes() for name in ("ca.crt", "server.crt")]
    federation = str(made / "federation.yaml")
    assert run_app(["provision", "renew", federation, "--host", "another.example.org"]) == 0
    after = [(made / "tls" / name).read_bytes() for name in ("ca.crt", "server.crt")]
    assert before[0] == after[0] and before[1] != after[1]
    assert run_app(["provision", "--host", "another.example.org", federation]) == 0
    assert run_app(["provision", federation, "--host", "third.example.org"]) == 1
