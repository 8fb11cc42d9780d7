"""Shows the state of the running plugin: log, health, metrics, status page, service manager."""
