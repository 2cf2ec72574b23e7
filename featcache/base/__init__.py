"""What every part needs: errors, durable files, locks, progress, jobs, cores and devices."""
