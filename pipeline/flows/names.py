"""What a project is called on a Prefect server."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path


def project_tags(root: Path) -> list[str]:
    """The tags of a project's runs."""
    project = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:12]
    return ["hapo", f"project-{project}"]


def deployment_name(root: Path) -> str:
    """The project's folder and the machine, so that two never share a name."""
    return re.sub(r"[^\w.-]+", "-", f"{root.resolve().name}-{socket.gethostname()}")
