"""`hapo run`: the flow around `dvc repro`, and its schedules."""
