"""Pictures, tables and predictions on disk and on W&B; never in a step method.

One class a file, named after it: RunConfig, SampleTables, PredictionWriter, ExplanationWriter,
ResultsWriter, ScoreLog. Import each from its own module, so that nobody pays for the others.

loggers.py        where the configured loggers write, and the keys that runs are compared by
wandb_offline.py  whether W&B can be reached
gather.py         what several processes know, put together
"""
