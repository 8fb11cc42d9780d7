"""What must outlive the process: positions, the ledger of delivered ids, dead letters."""
