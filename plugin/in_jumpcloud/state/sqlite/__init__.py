"""The state in one SQLite file, which one process at a time holds."""
