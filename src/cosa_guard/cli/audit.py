"""`cosa audit`: make keys, read an audit log again, and take its heads elsewhere."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cosa_guard.audit.heads import read_heads
from cosa_guard.audit.manifest import NAME, read_manifest
from cosa_guard.audit.signing import PublicKey, generate, write_secret
from cosa_guard.audit.verifying import STATUSES, FolderReport, Status, last_heads, verify
from cosa_guard.cli import options
from cosa_guard.cli.writing import must_be_writable, plain, write_whole
from cosa_sdk.errors import UsageError

__all__ = ["app"]

app = typer.Typer(help="Make keys for audit logs, verify logs, and export their heads.", no_args_is_help=True)
_Folders = Annotated[list[Path], typer.Argument(metavar="FOLDER…", help="Folders of audit logs.")]
_EXIT: Final[dict[Status, int]] = {"valid": 0, "unanchored": 3, "truncated": 1, "missing": 1, "broken": 1}


@app.command("verify")
def verify_(
    folders: _Folders,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", "-k", help="A public key whose signatures count. Repeatable. Without: none counts."),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option("--heads", help="Heads that cosa audit heads printed, kept elsewhere. Repeatable."),
    ] = None,
    json: options.JsonOption = False,
) -> None:
    """Check that nothing recorded was altered or removed.

    Exit code: 0 all valid and vouched for to the end; 1 something is broken, missing or truncated; 3 whole as far as it
    goes, and no signature vouches for the end; 2 error.
    """
    keys = [PublicKey(path) for path in key or ()]
    kept = read_heads(heads or ())
    chains = {folder: _chains(folder) for folder in folders}
    reports = []
    for folder in folders:
        others = {chain for other in folders if other != folder for chain in chains[other]} - chains[folder]
        reports.append(verify(folder, keys=keys, heads=[head for head in kept if head.chain not in others]))
    worst = max((report.status for report in reports), key=STATUSES.index)
    if json:
        options.print_json({"status": worst, "folders": [_as_json(report) for report in reports]})
    else:
        for report in reports:
            _print(report)
    raise typer.Exit(_EXIT[worst])


@app.command("heads")
def heads_(
    folders: _Folders,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write them to this file, whole or not at all.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if there is one.")] = False,
) -> None:
    """Print the newest signed head of every chain, to be kept where nobody who can write the log can write."""
    lines = b"".join(head + b"\n" for folder in folders for head in last_heads(folder)).decode("ascii")
    if output is None:
        options.write(lines)
        return
    must_be_writable(output, force=force)
    write_whole(output, lines)


@app.command()
def keygen(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The private key to make; FILE.pub is the public one.")],
    text: Annotated[
        bool, typer.Option("--text", help="Make a text key instead: a secret from which the tags of texts are made.")
    ] = False,
) -> None:
    """Make a key that signs heads (Ed25519), or one for the tags of texts. No file is replaced."""
    if text:
        write_secret(file, f"{secrets.token_hex(32)}\n".encode("ascii"))
        options.write(f"wrote {file}; use it with AuditLog(…, text_key={str(file)!r})\n")
        return
    public, name = generate(file)
    options.write(f"wrote {file} (secret) and {public}; key {name}\n")


def _chains(folder: Path) -> set[str]:
    try:
        return {start.chain for start in read_manifest(folder).starts}
    except FileNotFoundError:
        return set()  # `verify` says what that means
    except OSError as error:
        raise UsageError(f"cannot read {str(folder / NAME)!r}: {error.strerror}") from None


def _as_json(report: FolderReport) -> dict[str, Any]:
    return {"status": report.status, **asdict(report)}


def _print(report: FolderReport) -> None:
    """A line for the folder and one for each chain, for people and for grep."""
    lines = [f"{report.folder}: {report.status}"]
    if report.broken:
        lines.append(f"  the manifest is broken: {report.broken}")
    if report.torn:
        lines.append(f"  lines of the manifest that were not written whole: {report.torn}")
    for chain in report.chains:
        upto = (
            f", anchored up to record {chain.anchored}" if chain.anchored else ", none anchored" * bool(chain.records)
        )
        detail = f"; {chain.detail}" if chain.detail else ""
        lines.append(f"  {chain.chain} {chain.status}: {chain.records} records{upto}{detail}")
    options.write("".join(f"{plain(line)}\n" for line in lines))
