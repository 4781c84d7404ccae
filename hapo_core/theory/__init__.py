"""What the gate promises, computed exactly: injection probabilities, outlook, gradient gap."""
