"""testing: being built."""
