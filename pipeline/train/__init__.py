"""Stage `train@K`: rounds of rollout, verify, gate, update."""
