"""A package of somebody else's: it adds parts through entry points alone."""
