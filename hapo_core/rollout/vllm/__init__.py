"""Rollouts by vLLM servers, each a process (and an environment) of its own."""
