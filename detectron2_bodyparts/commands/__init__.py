"""The subcommands of ``bodyparts``: each module has `add_arguments` and `run`."""
