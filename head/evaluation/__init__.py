"""How good heads are."""
