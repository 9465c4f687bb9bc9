"""The sample domain beside the hops: an order service over HTTP, single orders, load, the demo."""
