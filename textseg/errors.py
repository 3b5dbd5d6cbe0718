"""The one exception for mistakes a user can mend."""


class UserError(ValueError):
    """A wrong file, value or setting: one line of cause and one of remedy.

    The command line prints both without a traceback and exits with status 2; from Python it is a
    ``ValueError``.

    Args:
        cause: what is wrong, naming the file or field and the value found there.
        remedy: what the user can do about it.
    """

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}\n{remedy}" if remedy else cause)


def first_line(error: BaseException) -> str:
    """The first line of a library's message, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def check_seed(seed: int) -> None:
    """Raises:
    UserError: numpy takes no such seed.
    """
    if seed < 0:
        raise UserError(f"seed={seed} is negative", "give 0 or more")
