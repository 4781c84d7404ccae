"""Properties of a verifier: what changes an answer's meaning must fail, what does not must pass.

Frozen before the rules that it tests were written; it knows nothing of them and imports none.

- `mutate(gold)`: answers that look like the gold and mean something else, by kind.
- `respell(gold)`: answers that are written otherwise and mean the same, by kind.
- `embed(gold)`: statements that are made around a gold (a quantifier, a domain, owners of values),
  each with an answer that means something else, and the kind of the change.

All are pure functions: the same gold gives the same variants, in the same order, on any machine.
"""

from hapo_core.verify.properties.embeddings import embed
from hapo_core.verify.properties.mutations import mutate
from hapo_core.verify.properties.respellings import respell
from hapo_core.verify.properties.tokens import Pair, Variant

__all__ = ["Pair", "Variant", "embed", "mutate", "respell"]
