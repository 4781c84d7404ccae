"""Stage `cold_start@NAME`: supervised rounds between the starting policy and the first segment."""
