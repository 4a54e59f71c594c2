"""Parts of pages: what several pages show, or one page shows of a kind."""
