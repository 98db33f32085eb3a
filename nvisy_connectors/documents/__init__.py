"""Actions on files that hold documents: parsing.

What reads the files runs in processes of its own: `child`, `extract`, `markup`, `media` and `pages`
are imported there, and import nothing of the SDK.
"""
