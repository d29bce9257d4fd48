"""How names say that something is a secret, and how secrets look: one rule for configs, the chart and messages.

Python, Go and JavaScript take these patterns alike, as JSON Schemas need: nothing in them looks ahead or behind, and
case is said to count for nothing in front.
"""

from __future__ import annotations

import re

WORDS = (
    "secret|passw(?:or)?d|passphrase|token|connection[._-]?string|identity[._-]header"
    "|(?:access|account|api|customer|master|private|sas|secret|storage)[._-]?key"
)
"""What a name ends with that says so."""
AZURE = r"(?:(?:\.[^.]+){1,2}\.(?:blob|dfs)\..+)?"
"""Account, and container, that Hadoop's settings for Azure end with."""
SECRET_NAME = re.compile(rf"(?i)(?:{WORDS}|[._-](?:key|pat|pwd)|(?:^|[._-])(?:pass|sas))(?:[._-]base64)?{AZURE}$")
"""Names of variables and settings that hold a secret. An access key's id is none."""
SECRET_REFERENCE = re.compile(r"^spark\.kubernetes\.(?:driver|executor)\.(?:secrets|secretKeyRef)\.")
"""Names of Spark's settings that only name a Secret of Kubernetes, and are none of those."""
SECRET_VALUE = re.compile(
    r"(?i)\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    # A password in any URL; a name alone where it can only be a token. In abfss://, it is a container.
    r"|://[^/\s]*:[^/\s]*@|\b(?:https?|s3[an]?|gs|az|file)://[^/\s]*@"
    # In a query, a connection string, or an option of Java's.
    rf"|(?:-D|[?&;])(?:[\w.-]*(?:{WORDS}|signature|credential)|sig)="
    r"|[?&#](?:[\w.-]*[._-])?(?:auth|bearer|code|jwt|key|pass|pat|pwd)="
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}|-----BEGIN [A-Z ]*PRIVATE KEY"
)
"""Values that hold a secret, whatever they are called."""


def says_secret(name: str) -> bool:
    """Whether what has this name is a secret."""
    return SECRET_NAME.search(name) is not None and SECRET_REFERENCE.search(name) is None
