"""The forward protocol, as a sender: chunks out, acknowledgements in."""
