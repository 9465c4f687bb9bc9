"""What every process needs to start, be observed and stop; it knows nothing of orders."""
