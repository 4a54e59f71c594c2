"""Charts, pictures and looks. Nothing here knows a page."""
