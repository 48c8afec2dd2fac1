"""The command line: a parser that reports a mistake in one line, and the types of its flags."""
import argparse
import re
from pathlib import Path

from command.version import describe_version


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each flag's type, and its default where it has one."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)

    def _get_default_metavar_for_optional(self, action):
        names = {None: "text", boolean: "True|False", Path: "path"}
        return names.get(action.type) or action.type.__name__


class PrintVersion(argparse.Action):
    """`--version`: print one line, found when it is asked for, and end the process."""

    def __call__(self, parser, *_):
        print(describe_version(parser.prog.split()[0]))
        parser.exit()


class Parser(argparse.ArgumentParser):
    """ArgumentParser that shows types and defaults, has `--version` and takes no abbreviations.

    It reports a mistake in one line.
    """

    def __init__(self, description, **options):
        super().__init__(description=description, allow_abbrev=False,
                         formatter_class=HelpFormatter, **options)
        self.add_argument("--version", action=PrintVersion, nargs=0, default=argparse.SUPPRESS,
                          dest=argparse.SUPPRESS,
                          help="show the versions of this command, Jittor and NumPy, and the "
                               "machine's devices, and exit")

    def error(self, message):
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


# ------------------------------------------------------------------------------------ flag types
def boolean(text):
    """`True`, `true`, `1`, `yes` or their opposites -> bool."""
    word = text.strip().lower()
    if word in ("true", "1", "yes"):
        return True
    if word in ("false", "0", "no"):
        return False
    raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")


def number(kind, low, high=float("inf"), include_low=True):
    """A flag type: a finite `kind` (int or float) in [low, high), or in (low, high)."""
    name, form = ("a whole number", "") if kind is int else ("a number", "g")
    bound = f"{'at least' if include_low else 'above'} {low:{form}}"
    if high < float("inf"):
        bound += f" and below {high:{form}}"

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {name} {bound}, got {text!r}") from None
        if not ((value >= low if include_low else value > low) and value < high):  # NaN fails too
            raise argparse.ArgumentTypeError(f"expected {name} {bound}, got {text!r}")
        return value
    parse.__name__ = kind.__name__  # what --help shows
    return parse


def file_named(*suffixes):
    """A flag type: the path of a file whose name ends in one of these suffixes."""
    def parse(text):
        path = Path(text)
        if path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError("expected a name that ends in "
                                             f"{' or '.join(suffixes)}, got {text!r}")
        return path
    parse.__name__ = f"FILE{suffixes[0]}"  # what --help shows
    return parse


picture, csv_file = file_named(".png"), file_named(".csv")


def expression(text):
    """A flag type: a regular expression with a group in parentheses."""
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    if not pattern.groups:
        raise argparse.ArgumentTypeError("expected a regular expression with a group in "
                                         f"parentheses, got {text!r}")
    return text
