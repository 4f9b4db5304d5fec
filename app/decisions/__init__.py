"""The DPO's decisions that set the pipeline going again."""
