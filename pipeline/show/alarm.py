"""The alarm of `gate.stop_loss` in a sentence."""

from __future__ import annotations

from hapo_core.alarm import Spoken, Witness


def alarm_words(spoken: Spoken) -> str:
    """What spoke, when, and what it did."""
    match Witness(spoken.witness):
        case Witness.SURPRISE:
            why = f"traces surprise the policy by {spoken.value:.2f} nats a token more than its "
            why += "own rollouts do"
        case Witness.HELP:
            why = f"prompts that were helped are solved {-100 * spoken.value:.1f} points less "
            why += "often at their next visit than those that were held out"
        case Witness.BENCHMARK:
            why = f"{spoken.benchmark} has fallen {-100 * spoken.value:.1f} points below the start"
    deed = "the gate is shut for good" if spoken.shuts else "the gate stays as it is"
    return f"Alarm in round {spoken.round}: {why} (p = {spoken.p_value:.2g}); {deed}."
