"""Privacy mathematics: accountants, training records and membership scores; numbers in, numbers out."""
