"""The parts of campaign.py: settings, locks, processes, what is done for a row, and the tables."""
