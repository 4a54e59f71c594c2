"""What runs outside the app: the worker process, audits that were started, a scenario that is being edited."""
