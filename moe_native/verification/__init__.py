"""Two computations of the same calls, compared: cases, measures, and what ``moe-native verify`` runs."""
