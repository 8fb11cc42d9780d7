"""The configuration: schema, reading, validation."""
