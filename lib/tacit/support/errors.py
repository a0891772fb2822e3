"""The one exception that a person is meant to read."""


class TacitError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do."""


def first_line(error: BaseException) -> str:
    """The first line of an error's own message, for a message that explains it."""
    return (str(error).strip() or "no message").splitlines()[0]
