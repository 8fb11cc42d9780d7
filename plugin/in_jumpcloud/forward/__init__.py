"""The forward protocol: chunks out, acks in."""
