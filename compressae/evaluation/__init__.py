"""Evaluation: compressed search beside baselines, drift, and an atlas of latents."""
