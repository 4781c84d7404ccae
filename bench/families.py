"""Log-probs of engine, update and model for every causal LM family of transformers, as a table.

python bench/families.py docs/families.md   # two minutes; writes the page
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from tiny_families import FAMILIES, NotTiny, agreement, tiny_family

from hapo_core.errors import HapoError

LIMIT = 2e-4
"""As in tests/core/test_families.py."""
HEAD = """# Model families: whose log-probs are right

Written by `python bench/families.py docs/families.md` (transformers {version}); `make soak`
holds it, nineteen of these families are in `make test`. Every model is tiny, float32, with
loud random weights (sigma .3), and with factors that are 1 in its default configuration set to
something else. Columns *engine* and *update*: largest |delta log p| of sampled tokens against
the model's own forward pass, one sequence at a time, without cache, padding or batch. No family
is known by its name: each model is tried once when it is first used (`hapo_core/logits.py`,
`hapo_core/rollout/stepping.py`).

*Head*: `linear` is the memory-saving head; `own` runs the end of the model's own forward pass
in chunks; `whole` holds all logits of a micro-batch at once. *Steps*: `padded` is the usual
way; `aligned` batches only prompts of equal length (state space models and hybrids);
`recomputed` has no cache and is slow: use vLLM for these.

{right} families are right, {refused} are refused, {left} could not be made tiny here.

| family | engine | update | head | steps |
|---|---|---|---|---|
"""


def main() -> int:
    """Measure, and write the page that the command line names."""
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    right, wrong, refused, left = [], [], [], []
    for family in FAMILIES:
        print(family, flush=True)
        try:
            found = agreement(tiny_family(family))
        except NotTiny as reason:
            left.append(f"| {family} | {reason} |")
        except HapoError as error:
            refused.append(f"| {family} | {error.what[:90]} |")
        else:
            numbers = f"{found.engine:.0e} | {found.update:.0e}"
            line = f"| {family} | {numbers} | {found.head} | {found.stepping} |"
            fine = max(found.engine, found.update) < LIMIT  # NaN is not
            (right if fine else wrong).append(line)
    counts = {"right": len(right), "refused": len(refused), "left": len(left)}
    text = HEAD.format(version=transformers.__version__, **counts) + "\n".join(right)
    if wrong:
        text += "\n\n## Wrong\n\n" + "\n".join(wrong)
    text += "\n\n## Refused\n\n| family | because |\n|---|---|\n" + "\n".join(refused)
    text += "\n\n## Not tried\n\nThe guard of round 1 (docs/methods.md) is what watches these.\n\n"
    text += "| family | because |\n|---|---|\n" + "\n".join(left)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
