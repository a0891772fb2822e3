"""How good a response is: estimates with intervals, likelihoods, judges, and win rates at equal lengths."""
