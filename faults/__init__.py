"""Faults on purpose: kills, failing calls, full disks, power cuts, flipped bits. What must hold is docs/format.md."""
