"""The torch half of Lethe: training, unlearning and evidence, run by Celery workers."""
