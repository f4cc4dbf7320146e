"""The framework: apps, their instances, where they run and how they change; over the SDK beside it."""
