"""The operator's commands: one module a subcommand, loaded when it is called."""
