"""Networks, batches, losses and training loops. Imports torch; imported late."""
