"""Certificates: proofs that no perturbation within a ball changes a prediction, by bounds of the network or by noise."""
