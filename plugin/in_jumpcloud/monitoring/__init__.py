"""How people see what goes on: counters, logs."""
