"""The dashboard: stored runs in a browser, from the verdict to the pixel. Its pages read run folders and compute nothing again."""
