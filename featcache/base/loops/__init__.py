"""Compiled loops that are kept from one process to the next, where nobody else can change them."""
