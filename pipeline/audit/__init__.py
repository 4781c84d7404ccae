"""`hapo audit`: what the gate promised against what it did."""
