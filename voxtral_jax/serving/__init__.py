"""Many requests side by side: slots, their engine, and what stands around it."""
