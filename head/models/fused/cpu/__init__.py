"""Loops compiled for the CPU by Numba; no library of the project but torch, numpy and numba is needed here."""
