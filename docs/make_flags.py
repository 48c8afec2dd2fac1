"""Write docs/flags.md: every flag of every command, from the commands' own parsers.

    python docs/make_flags.py              # write the page
    python docs/make_flags.py --check      # exit code 1 where the page is not current

A command that belongs on the page stands in `DOCUMENTED` and has a function `build_parser()`, or
another module has it for the command and stands in `PARSED_BY`.
Jittor is not imported.
"""
import argparse
import importlib
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FLAGS_PAGE = ROOT / "docs" / "flags.md"
DOCUMENTED = ("Main.py", "Predict.py", "Metrics.py", "MakeData.py", "MakeTxt.py", "Report.py",
              "DataAugmentation.py", "Transforms.py", "MirrorPadding.py", "Loss.py", "Model.py",
              "alignment/Compare.py", "alignment/ToPytorch.py", "alignment/ToOnnx.py",
              "benchmarks/Bench.py", "benchmarks/LargeImages.py", "benchmarks/Loops.py",
              "benchmarks/Agreement.py", "benchmarks/Ablation.py", "benchmarks/Gpu.py")
PARSED_BY = {"Model.py": "backend.model_command"}  # Model.py itself imports Jittor
BY_MACHINE = {  # defaults that depend on the machine, in words
    ("DataAugmentation.py", "--workers"): "4, or the number of cores where that is less",
    ("benchmarks/Ablation.py", "--jobs"): "the number of cores",
}
INTRODUCTION = """
This page answers: which flags does each command have?

`python docs/make_flags.py` writes this page from the commands' parsers. Do not edit it by hand.
Each command prints the same with `--help`, and its version, Jittor's and the machine's devices with
`--version`. Flags are written in full. A mistake in a flag ends the command with one line and exit
code 2, before anything is written.
[The four protocols](paper.md#the-four-protocols) says what `--protocol` sets.
"""
OF_ALL = {"--help", "--version"}  # flags of every command, which INTRODUCTION names
TABLE_HEAD = ["| flag | type or choices | default | meaning |", "|---|---|---|---|"]

# as `python alignment/Compare.py` has it: a command's own folder is on the path, and the root
sys.path[:0] = [str(ROOT), *(str(ROOT / name) for name in ("alignment", "benchmarks"))]


def command_parsers():
    """The parser of each documented command: {"Main.py": ArgumentParser, ...}."""
    modules = {name: importlib.import_module(PARSED_BY.get(name, Path(name).stem))
               for name in DOCUMENTED}
    return {name: module.build_parser() for name, module in modules.items()}


def subcommands(parser):
    """The parsers of a command's subcommands: {name: ArgumentParser}, empty where it has none."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


# ------------------------------------------------------------------------------------- a table row
def escape_cell(text):
    """Plain text for a cell of a Markdown table; flags in it become code."""
    parts = re.split(r"(?<![\w-])(--[A-Za-z]\w*)", " ".join(text.split()))
    plain = [re.sub(r"([\\`*_|<>\[\]])", r"\\\1", part) for part in parts[::2]]
    code = [code_cell(flag) for flag in parts[1::2]] + [""]
    return "".join(piece for both in zip(plain, code) for piece in both)


def code_cell(text):
    """Code for a cell of a Markdown table."""
    return "`" + str(text).replace("|", r"\|") + "`"


def is_balanced(text):
    """Whether each parenthesis in a text that closes was opened there."""
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0


def split_help(action):
    """A flag's help, and the default that it names at its end: two texts, the second may be ""."""
    known = {name: value for name, value in vars(action).items() if value is not argparse.SUPPRESS}
    text = " ".join(((action.help or "") % {**known, "prog": ""}).split())
    found = re.fullmatch(r"(.*?)\s*\(default: (.*)\)", text)
    if found and is_balanced(found[2]):
        return found[1], found[2]
    return text, ""


def describe_type(action, parser):
    """What a flag takes: its choices or its type, as often as it wants them."""
    if action.nargs == 0:
        return "-"
    if action.choices is not None and action.metavar is None:
        choices = ", ".join(code_cell(choice) for choice in action.choices)
        return f"{choices} (one or more)" if action.nargs == "+" else choices
    formatter = parser._get_formatter()
    name = formatter._get_default_metavar_for_optional(action)
    return code_cell(formatter._format_args(action, name))


def describe_default(action, named, command):
    """A flag's default.  named: the default that its help names, or ""."""
    flag = action.option_strings[-1] if action.option_strings else action.dest
    if (command, flag) in BY_MACHINE:
        return escape_cell(BY_MACHINE[command, flag])
    if named:
        return escape_cell(named)
    if action.required:
        return "required"
    if action.nargs == 0:
        return "off"
    if action.default is None or action.default is argparse.SUPPRESS:
        return "none"
    if type(action.default) in (list, tuple):  # a NamedTuple has a text of its own
        return code_cell(" ".join(map(str, action.default)))
    return code_cell(action.default)


def flag_row(action, parser, command):
    """The row of one flag."""
    names = " ".join(map(code_cell, action.option_strings or [action.dest]))
    meaning, named = split_help(action)
    cells = (names, describe_type(action, parser), describe_default(action, named, command),
             escape_cell(meaning))
    return "| " + " | ".join(cells) + " |"


# ---------------------------------------------------------------------------------------- the page
def flag_tables(parser, command):
    """Yield the lines of a parser's tables: one for its own flags, one for each named group."""
    for group in parser._action_groups:
        actions = [action for action in group._group_actions
                   if action.help is not argparse.SUPPRESS
                   and not OF_ALL.intersection(action.option_strings)
                   and not isinstance(action, argparse._SubParsersAction)]
        if not actions:
            continue
        yield ""
        if group not in (parser._optionals, parser._positionals):
            yield f"{group.title[0].upper()}{group.title[1:]}:"
            yield ""
        yield from TABLE_HEAD
        for action in actions:
            yield flag_row(action, parser, command)


def command_section(command, parser, level=2):
    """Yield the lines about a command and its subcommands."""
    yield ""
    yield f"{'#' * level} {command}"
    if parser.description:
        yield ""
        yield from textwrap.wrap(escape_cell(parser.description), 100, break_on_hyphens=False)
    yield from flag_tables(parser, command)
    for name, child in subcommands(parser).items():
        yield from command_section(f"{command} {name}", child, level + 1)


def render_flags():
    """The text of docs/flags.md."""
    lines = ["# Flags", *INTRODUCTION.rstrip().split("\n")]
    for command, parser in command_parsers().items():
        lines += command_section(command, parser)
    return "\n".join(lines) + "\n"


def build_parser():
    from command.flags import Parser
    parser = Parser("Write docs/flags.md from the parsers of all commands.")
    parser.add_argument("--check", action="store_true",
                        help="write nothing; exit code 1 where the page is not current")
    return parser


def main():
    options, text = build_parser().parse_args(), render_flags()
    if not options.check:
        FLAGS_PAGE.write_text(text, encoding="utf-8")
        print(f"Wrote {FLAGS_PAGE.relative_to(ROOT)}")
        return 0
    if not FLAGS_PAGE.exists() or FLAGS_PAGE.read_text(encoding="utf-8") != text:
        print("docs/flags.md is not current: python docs/make_flags.py writes it", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    from command.errors import run
    sys.exit(run(main))
