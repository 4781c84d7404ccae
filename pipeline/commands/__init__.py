"""The subcommands of `hapo`: options in, one call out."""
