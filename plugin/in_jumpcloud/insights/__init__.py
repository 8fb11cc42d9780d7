"""The client of JumpCloud Directory Insights: windows of time, pages of raw events, counts."""
