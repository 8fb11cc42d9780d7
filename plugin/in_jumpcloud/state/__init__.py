"""What outlives the process: positions, the ledger of delivered ids, dead letters."""
