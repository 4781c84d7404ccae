"""Stage `base`: the policy that training starts from."""
