"""A record of every ruling, safe before the text it is about is released.

`JsonlRecord` is one plain file. `AuditLog` is a folder that shows whether somebody touched it:

    manifest.jsonl          one line for each start of a worker; each line holds the hash of the line before
    <chain>.jsonl           the rulings of one start; each line holds the hash of the line before
    <chain>.heads.jsonl     signed statements: so many lines, and this is the hash of the last

The first line of a chain holds the hash of its line in the manifest, so a signed head vouches for everything before it:
the records, the start, and all starts that the manifest had by then. `verify` reads it all again.
"""

from cosa_guard.audit.files import AuditError
from cosa_guard.audit.jsonl import JsonlRecord
from cosa_guard.audit.lines import text_tag
from cosa_guard.audit.log import AuditLog
from cosa_guard.audit.verifying import ChainReport, FolderReport, verify

__all__ = ["AuditError", "AuditLog", "ChainReport", "FolderReport", "JsonlRecord", "text_tag", "verify"]
