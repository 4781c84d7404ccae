"""Jobs of the pool's tests: an endless one, a right and a wrong one."""

from __future__ import annotations

from hapo_core.verify import Job, Verdict, Verification

ENDLESS = Job("endless", "1", r"\boxed{\prod_{k=1}^{1000000} (1+\frac{1}{k})}")
RIGHT = Job("right", r"\frac{1}{2}", r"\boxed{\frac{2}{4}}")
FALSE = Job("false", "x+1", r"\boxed{x+2}")


def verdicts(found: list[Verification]) -> list[Verdict]:
    """Without their reasons and times."""
    return [item.verdict for item in found]
