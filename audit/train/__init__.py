"""Training with differential privacy: a file says how, a ledger says what was spent."""
