"""Campaigns against fruitpipe: many seeded rounds of one kind of trouble. Tests run few, `benchmarks/chaos.py` many."""
