"""Pictures, tables and predictions on disk and on W&B; never in a step method.

One class a file, named after it: import each from its own module, so that nobody pays for the
others.
"""
