"""The one-machine agent: what a mesos-agent does for one executor, on one machine, for one task file."""
