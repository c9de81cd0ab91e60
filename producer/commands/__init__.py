"""The subcommands of `pixelherd`, by what they are about."""
