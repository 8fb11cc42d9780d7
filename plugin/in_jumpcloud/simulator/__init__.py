"""Stand-ins for both ends of the plugin: a Directory Insights API and a forward receiver, each with scripted faults."""
