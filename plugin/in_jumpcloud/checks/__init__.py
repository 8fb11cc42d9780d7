"""The checks of `in-jumpcloud check`: this machine, JumpCloud and the receivers."""
