"""The one exception a user may see."""


class UserError(Exception):
    """A mistake that the user can mend.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints
    it on stderr without a traceback and exits with code 2.
    """


class RankError(UserError):
    """The failure of a command that several processes share: the line of one of them, and nothing of the others."""
