"""HAPO for people who stay with TRL: `HAPOTrainer`, `HAPOConfig` (extra `trl`, docs/trl.md)."""

from __future__ import annotations

try:
    import trl as _trl
except ImportError as error:
    raise ImportError(
        "hapo_trl needs TRL, which is not installed\n  remedy: pip install 'hapo[trl]'"
    ) from error

from hapo_trl.config import HAPOConfig
from hapo_trl.trainer import HAPOTrainer

del _trl
__all__ = ["HAPOConfig", "HAPOTrainer"]
