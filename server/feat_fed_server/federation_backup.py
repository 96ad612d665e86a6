"""What a backup of a federation holds: who may take part, and by what the server is known."""

from __future__ import annotations

from pathlib import Path

from feat_fed.archive import Contents, new_backup, restored_folder, unpack
from feat_fed.config import load_federation
from feat_fed_server.admissions import Admissions
from feat_fed_server.certificates import TlsFiles

_NAME = "federation"


def back_up_federation(federation: Path, out: Path, *, private_keys: bool) -> None:
    """Write a backup of a federation, whose server may be running.

    Parameters
    ----------
    private_keys
        Put the CA's and the server's private keys in, and the tokens that wait to be used.

    Raises
    ------
    BackupError
        If it cannot be written.
    ConfigError
        If the federation's file is wrong.
    """
    load_federation(federation)
    folder, tls = federation.parent, TlsFiles(federation.parent / "tls")
    admissions = Admissions(folder)
    public = [tls.ca_certificate, tls.certificate]
    secret = [tls.ca_key, tls.key] if private_keys else []
    with new_backup(out) as backup, admissions.unchanged():
        backup.file(f"{_NAME}.yaml", federation)
        patterns = ("*.pub", "revoked.json", "pending/*.join", "invited/*.json")
        found = [path for each in patterns for path in sorted(admissions.keys.glob(each))]
        if private_keys:
            secret += sorted(admissions.token_file("any").parent.glob("*.token"))
        for path in (*public, *found, *secret):
            backup.file(path.relative_to(folder).as_posix(), path)
        backup.close("federation", _NAME, round_number=None, private_keys=private_keys)


def restore_federation(path: Path, to: Path) -> Contents:
    """Make a federation's folder of a backup.

    Raises
    ------
    BackupError
        If the backup is not whole or ``to`` is there.
    ConfigError
        If it is of a federation that this version cannot read.
    """
    with restored_folder(to) as folder:
        contents = unpack(path, folder)
        config = load_federation(folder / f"{_NAME}.yaml")
        Admissions(folder).members(config.sites)
    return contents
