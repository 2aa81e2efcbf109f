"""Throughput benches and the simulated scene they run on; run from the checkout, not installed."""
