"""Which models exist, what their files hold, and which of them may be opened."""
