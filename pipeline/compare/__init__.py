"""`hapo compare`: a matrix of settings x seeds as DVC experiments, and the page about it."""
