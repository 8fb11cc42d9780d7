"""JumpCloud Directory Insights into Fluent Bit: every event once, mapped to the Elastic Common Schema."""

__version__ = "0.1.0"
