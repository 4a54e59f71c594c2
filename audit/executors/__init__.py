"""Where the work of a run happens. One file per place."""
