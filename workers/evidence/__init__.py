"""Checks of what a model still shows of the records it was to forget.

Numbers in, one `Evidence` out. No check says pass or fail: that is a rule of the service, which
knows the margins. Nothing here knows a person; data subjects are opaque numbers.
"""
