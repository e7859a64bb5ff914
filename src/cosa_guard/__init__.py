"""Making a safety config hold: for local models and remote ones, on input, output and streams.

    from cosa_sdk import presets
    from cosa_guard import Guard
    guard = Guard(presets.load("customer-service"), backend="local", accept_unexamined=True)
    print(guard.reply("Which plan is best for me?").text)

Importing this package loads no optional dependency.
"""

from cosa_guard import backends, judges
from cosa_guard.backends.base import AsyncBackend, Backend, Capabilities
from cosa_guard.guard import AsyncGuardStream, Guard, GuardStream
from cosa_guard.judges.base import AsyncJudge, Judge
from cosa_guard.messages import Adapter, Delta, Message, Reply, Request, Sampling, Usage
from cosa_guard.recollection import Recollection
from cosa_guard.verdicts import Case, Report, Ruling, Verdict
from cosa_sdk.errors import Blocked

__all__ = [
    "Adapter",
    "AsyncBackend",
    "AsyncGuardStream",
    "AsyncJudge",
    "Backend",
    "Blocked",
    "Capabilities",
    "Case",
    "Delta",
    "Guard",
    "GuardStream",
    "Judge",
    "Message",
    "Recollection",
    "Reply",
    "Report",
    "Request",
    "Ruling",
    "Sampling",
    "Usage",
    "Verdict",
    "backends",
    "judges",
]
