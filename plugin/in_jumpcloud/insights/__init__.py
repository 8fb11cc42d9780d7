"""Asking JumpCloud Directory Insights: windows of time, pages of raw events."""
