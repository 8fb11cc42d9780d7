"""What `in-jumpcloud check` tries, a file for each neighbour: this machine, JumpCloud, the receivers, Fluent Bit."""
