"""The methods: one small file each, over shared parts."""

from hapo_core.methods.base import Method, Phase, ReinforcementMethod
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.hapo import HAPO
from hapo_core.methods.luffy import LUFFY
from hapo_core.methods.sft import SFT
from hapo_core.methods.sft_then_rl import SFTThenRL

__all__ = ["GRPO", "HAPO", "LUFFY", "SFT", "Method", "Phase", "ReinforcementMethod", "SFTThenRL"]
