"""README and docs/ say what is there: links, file names, flags, commands, Python blocks.

README is short, and both of its languages say the same.
"""
import ast
import re
import shlex
from pathlib import Path

import pytest

from docs import make_flags
from docs.make_flags import command_parsers, render_flags, subcommands

ROOT = Path(__file__).resolve().parent.parent
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]
PAGES = [*READMES, ROOT / "SECURITY.md", ROOT / "data/README.md", *sorted(ROOT.glob("docs/*.md"))]
# folders that a run writes, or that MakeData.py writes into a data set
WRITTEN = ("logs", "results", "checkpoints", "weight_maps", "DataTxt", "predictions", "data",
           "challenge", "instances")
# files of other projects
ELSEWHERE = {"extern/mpi/src/mpi_wrapper.cc", "doc/PERFORMANCE.md"}
# flags of other programs: mpirun, Slurm, TensorBoard, pip
FOREIGN_FLAGS = {"--allow-run-as-root", "--oversubscribe", "--bind-to", "--signal", "--logdir",
                 "--no-index", "--no-deps", "--target", "--system-site-packages"}
WITHOUT_FLAGS = {"alignment/Operators.py", "docs/make_flags.py"}


def name_of(page):
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


# ---------------------------------------------------------------------------------- parts of a page
def fenced(text, languages=("", "bash", "python")):
    """The contents of a page's code blocks in some languages."""
    return [content for language, content in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
            if language in languages]


def without_fences(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def inline(text):
    """The contents of a page's code spans."""
    return [" ".join(span.replace(r"\|", "|").split())
            for span in re.findall(r"`([^`]+)`", without_fences(text))]


def headings(text):
    return re.findall(r"^(#+) (.+)$", without_fences(text), re.M)


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for _, title in headings(text)}


def links(text):
    """What a page links to in the repository: pages, pictures, anchors."""
    prose = re.sub(r"`[^`]*`", "", without_fences(text))
    found = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'src="([^"]+)"', prose)
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def commands(text):
    """The calls `python NAME.py ...` of a page, each as (script, arguments).

    Those with a gap, `...`, are left out.
    """
    lines = "\n".join(fenced(text, ("bash",))).replace("\\\n", " ").split("\n") + inline(text)
    found = []
    for line in lines:
        line = re.sub(r"\s+#.*", "", line)
        call = re.search(r"(?<![\w/])python ((?:\w+/)*\w+\.py(?: .*)?)$", line)
        words = shlex.split(call[1]) if call else ["..."]
        if "..." not in words:
            found.append((words[0], words[1:]))
    return found


def python_blocks(text):
    return fenced(text, ("python",))


# ---------------------------------------------------------------------------- what is wrong with it
def broken_links(text, page):
    """The links of a page that lead nowhere."""
    broken = []
    for link in links(text):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists():
            broken.append(link)
        elif anchor and anchor not in anchors(path.read_text(encoding="utf-8") if target else text):
            broken.append(link)
    return broken


def is_path(word):
    """Whether a word in code looks like a file or a folder of the repository."""
    if not re.fullmatch(r"(\w[\w.-]*/)*[\w.-]*", word) or word in ELSEWHERE:
        return False
    if "/" not in word:
        return re.fullmatch(r"\w[\w.-]*\.(py|md|txt|ini|h|toml)", word) is not None
    first = word.split("/")[0]
    return (first not in WRITTEN or word.endswith(".md")) and (
        word.endswith("/") or (ROOT / first).is_dir() or re.search(r"\.\w+$", word) is not None)


def missing_paths(text):
    """The file names in a page's code that are not there."""
    words = re.split(r"[\s'\"(),;:=`]+", "\n".join(fenced(text) + inline(text)))
    words = [word.removeprefix("./").rstrip(".") for word in words]
    return [word for word in words if is_path(word) and not (ROOT / word).exists()]


def flags_of(parser):
    """The flags of a parser and of its subcommands."""
    found = {flag for action in parser._actions for flag in action.option_strings}
    return found.union(*map(flags_of, subcommands(parser).values()))


def unknown_flags(text, known):
    """The flags that a page names and no command has."""
    named = re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", text, re.A)
    return sorted(set(named) - known - FOREIGN_FLAGS)


def refused_commands(text, parsers, capsys):
    """What is wrong with the commands of a page, by the parsers of the commands."""
    refused = []
    for script, arguments in commands(text):
        if script in WITHOUT_FLAGS:
            continue
        if script not in parsers:
            refused.append(f"{script}: no such command")
            continue
        try:
            parsers[script].parse_args(arguments)
        except SystemExit:
            refused.append(f"{script} {shlex.join(arguments)}: {capsys.readouterr().err}")
    return refused


def defined_in(path):
    """The names that a Python file defines or imports at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names.update(name.id for target in targets for name in ast.walk(target)
                         if isinstance(name, ast.Name))
    return names


def missing_imports(text):
    """What a page's Python blocks import from the repository and is not there.

    Raises SyntaxError where a block is no Python.
    """
    missing = []
    for node in ast.walk(ast.parse("\n".join(python_blocks(text)))):
        if not isinstance(node, ast.ImportFrom):
            continue
        path = ROOT / (node.module.replace(".", "/") + ".py")
        if (ROOT / node.module.split(".")[0]).is_dir() and not path.exists():
            missing.append(node.module)
        elif path.exists():
            names = defined_in(path)  # a module may make more when it is asked: `jt`, `nn`
            missing += [f"{node.module}.{alias.name}" for alias in node.names
                        if alias.name not in names and "__getattr__" not in names]
    return missing


@pytest.fixture(scope="module")
def parsers():
    return command_parsers()


@pytest.fixture(scope="module")
def known_flags(parsers):
    return set().union(flags_of(make_flags.build_parser()), *map(flags_of, parsers.values()))


# -------------------------------------------------------------------------------------------- tests
@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_readme_is_short(page):
    content = page.read_bytes()
    assert content.count(b"\n") <= 130
    assert len(content) <= 9000


@each_page
def test_links_lead_somewhere(page):
    assert broken_links(page.read_text(encoding="utf-8"), page) == []


@each_page
def test_named_files_exist(page):
    assert missing_paths(page.read_text(encoding="utf-8")) == []


@each_page
def test_named_flags_exist(page, known_flags):
    assert unknown_flags(page.read_text(encoding="utf-8"), known_flags) == []


@each_page
def test_commands_parse(page, parsers, capsys):
    assert refused_commands(page.read_text(encoding="utf-8"), parsers, capsys) == []


@each_page
def test_python_blocks_import_what_is_there(page):
    assert missing_imports(page.read_text(encoding="utf-8")) == []


@each_page
def test_make_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    text = page.read_text(encoding="utf-8")
    code = "\n".join(fenced(text) + inline(text))
    assert set(re.findall(r"^make ([\w-]+)", code, re.M)) <= targets


def test_every_page_and_picture_is_linked():
    linked = {(page.parent / link.partition("#")[0]).resolve()
              for page in PAGES for link in links(page.read_text(encoding="utf-8"))}
    there = {*ROOT.glob("docs/*.md"), *ROOT.glob("docs/*.png"), ROOT / "SECURITY.md", *READMES}
    assert {path.resolve() for path in there} - linked == set()


def test_readme_shows_the_commands_of_results():
    """README's four rows are those of docs/results.md, with the same scores."""
    row = r"`python Main.py --protocol fast (--Data_directory [^`]+)` \| (\*\*[^|]+\*\*) \|"
    rows = re.findall(row, READMES[0].read_text(encoding="utf-8"))
    assert len(rows) == 4
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for flags, scores in rows:
        row = next(line for line in results.split("\n") if line.startswith(f"| `{flags}` |"))
        assert scores in row


def test_both_languages_say_the_same():
    """The same headings, commands, links, rows and scores; only comments and prose differ."""
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    assert commands(english) == commands(chinese)
    others = [set(links(text)) - {page.name for page in READMES} for text in (english, chinese)]
    assert others[0] == others[1]
    scores = [re.findall(r"(?<![\w.])\d?\.\d{3,4}", text) for text in (english, chinese)]
    assert scores[0] == scores[1]


def test_flags_page_is_current():
    text = make_flags.FLAGS_PAGE.read_text(encoding="utf-8")
    assert text == render_flags(), "python docs/make_flags.py writes it"


def test_check_tells_a_page_that_is_not_current(tmp_path, monkeypatch, capsys):
    page = tmp_path / "flags.md"
    monkeypatch.setattr(make_flags, "FLAGS_PAGE", page)
    monkeypatch.setattr("sys.argv", ["make_flags.py", "--check"])
    assert make_flags.main() == 1  # no page
    page.write_text(render_flags(), encoding="utf-8")
    assert make_flags.main() == 0
    page.write_text(render_flags() + "more\n", encoding="utf-8")
    assert make_flags.main() == 1
    assert "python docs/make_flags.py" in capsys.readouterr().err


def test_flags_page_escapes_what_markdown_would_take():
    escaped = make_flags.escape_cell("<name>_prob.npy | --tile 3")
    assert escaped == r"\<name\>\_prob.npy \| `--tile` 3"
    assert make_flags.code_cell("full|N") == r"`full\|N`"


def test_every_row_of_the_flags_page_has_four_cells():
    rows = [line for line in render_flags().split("\n") if line.startswith("|")]
    assert len(rows) > 50
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {5}


@pytest.mark.jittor
def test_examples_of_extending_run():
    """The Python blocks of docs/extending.md, one after the other, as a reader would run them."""
    namespace = {"__name__": "extending"}
    blocks = python_blocks((ROOT / "docs/extending.md").read_text(encoding="utf-8"))
    assert len(blocks) > 4
    for number, block in enumerate(blocks, 1):
        exec(compile(block, f"docs/extending.md, block {number}", "exec"), namespace)


# ------------------------------------------------------------------- the checks find what is wrong
@pytest.mark.parametrize("text", [
    "[a](nowhere.md)", "![a](docs/nowhere.png)", '<img src="docs/nowhere.png">',
    "[a](README.md#nowhere)", "[a](#nowhere)"])
def test_a_broken_link_is_found(text):
    assert len(broken_links(text, ROOT / "README.md")) == 1


@pytest.mark.parametrize("text", [
    "`Nowhere.py`", "`nowhere/`", "`docs/nowhere.md`", "`nets/nowhere.py`", "`data/nowhere.md`",
    "```bash\npython Nowhere.py --seed 1\n```"])
def test_a_missing_file_is_found(text):
    assert len(missing_paths(text)) == 1


@pytest.mark.parametrize("text", [
    "`Main.py`", "`./docs/`", "`tests/golden/`", "`logs/RUN1`", "`data/mine`", "`<name>_pred.png`",
    "`{train,test}/{imgs,labels}`", "a/b", "`a.tif`"])
def test_what_exists_or_is_written_is_not_missing(text):
    assert missing_paths(text) == []


def test_an_unknown_flag_is_found(known_flags):
    assert unknown_flags("`--seed 1 --nowhere`", known_flags) == ["--nowhere"]


@pytest.mark.parametrize("command", [
    "Main.py --protocol nowhere", "Main.py --Total_epochs many", "Nowhere.py",
    "MakeData.py folders --images a", "Main.py \\\n    --nowhere"])
def test_a_wrong_command_is_found(command, parsers, capsys):
    text = f"```bash\npython {command}   # a comment\n```"
    assert len(refused_commands(text, parsers, capsys)) == 1


def test_a_wrong_command_in_a_sentence_is_found(parsers, capsys):
    assert len(refused_commands("Call `python Main.py --nowhere`.", parsers, capsys)) == 1


@pytest.mark.parametrize("line", ["from Model import nowhere", "from nets.nowhere import name"])
def test_a_missing_import_is_found(line):
    assert len(missing_imports(f"```python\n{line}\n```")) == 1
