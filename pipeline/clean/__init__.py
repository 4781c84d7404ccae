"""`hapo clean`: what may go, by rule and size."""
