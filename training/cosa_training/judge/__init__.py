"""Training of the embedded judge: rows, encoder, static tier, folds, calibration, export."""
