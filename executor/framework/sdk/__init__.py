"""A library for Mesos V1 schedulers; see README.md beside this file."""
