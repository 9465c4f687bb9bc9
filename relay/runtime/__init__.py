"""What every process needs to start, be observed and stop; of orders it knows what a flow says."""
