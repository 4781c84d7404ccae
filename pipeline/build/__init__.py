"""From checked parameters to the objects of `hapo_core`."""
