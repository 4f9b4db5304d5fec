"""What an attacker gets out of a model: models and records in, arrays of numbers out.

Nothing here judges: `workers.evidence` makes evidence of the numbers. Nothing here knows a person.
"""
