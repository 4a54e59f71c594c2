"""What pages read: stored runs, evidence, the registry, trainings. Nothing here draws."""
