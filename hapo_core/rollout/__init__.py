"""Rollout engines behind one protocol."""

from hapo_core.rollout.protocol import Engine, Finish, Prompt, Rollout, Sampling

__all__ = ["Engine", "Finish", "Prompt", "Rollout", "Sampling"]
