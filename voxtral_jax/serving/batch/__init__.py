"""Lists of texts spoken into files, on this machine or on a cluster."""
