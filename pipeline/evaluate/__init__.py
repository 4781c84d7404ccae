"""Stage `evaluate@TARGET`: every benchmark with intervals."""
