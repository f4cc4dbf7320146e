"""The framework that launches this executor, and the SDK under it."""
