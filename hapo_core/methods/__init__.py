"""The methods: one small file each, over shared parts. The names below are for who imports a class
by hand; `registry.py` finds methods by their files, and a new one need not stand here."""

from hapo_core.methods.base import Method, Phase, ReinforcementMethod
from hapo_core.methods.bread import BREAD
from hapo_core.methods.chord import CHORD
from hapo_core.methods.grpo import GRPO
from hapo_core.methods.hapo import HAPO
from hapo_core.methods.hpt import HPT
from hapo_core.methods.luffy import LUFFY
from hapo_core.methods.prefix_rft import PrefixRFT
from hapo_core.methods.real import REAL
from hapo_core.methods.relift import ReLIFT
from hapo_core.methods.sft import SFT
from hapo_core.methods.sft_then_rl import SFTThenRL
from hapo_core.methods.srft import SRFT

__all__ = [
    "BREAD",
    "CHORD",
    "GRPO",
    "HAPO",
    "HPT",
    "LUFFY",
    "REAL",
    "SFT",
    "SRFT",
    "Method",
    "Phase",
    "PrefixRFT",
    "ReLIFT",
    "ReinforcementMethod",
    "SFTThenRL",
]
