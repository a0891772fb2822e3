"""The one exception that a person is meant to read."""


class TacitError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do."""
