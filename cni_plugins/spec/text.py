"""Text for a terminal or a log."""


def printable(line: str) -> str:
    """A line whose control characters are spelt out: tasks name themselves and tell their progress in
    whatever characters they like.
    """
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in line)
