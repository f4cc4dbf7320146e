"""The node service: plugin calls, answered by a process that is already running."""
