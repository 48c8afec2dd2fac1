"""The version: in one place, and said by each command, each checkpoint and CITATION.cff."""
import re
import sys
from pathlib import Path

import pytest
from helpers import ROOT, command

from command import version
from command.hardware import Card, Driver, DriverAnswer, processor_name
from command.version import VERSION, describe_devices, describe_version
from docs.make_flags import command_parsers

CITATION = (ROOT / "CITATION.cff").read_text("utf-8")
COMMANDS = ("Main.py", "Predict.py", "Metrics.py", "MakeData.py", "MakeTxt.py", "Report.py",
            "DataAugmentation.py", "Model.py", "alignment/ToPytorch.py", "benchmarks/Bench.py")


# ----------------------------------------------------------------------------- what commands say
@pytest.mark.parametrize("script", COMMANDS)
def test_a_command_answers_without_jittor_and_writes_nothing(tmp_path, no_jittor, script):
    (tmp_path / "here").mkdir()
    done = command(script, "--version", cwd=tmp_path / "here", **no_jittor)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == describe_version(Path(script).name) + "\n"
    assert not [*(tmp_path / "here").iterdir()]


def test_the_line_names_versions_and_devices(monkeypatch):
    monkeypatch.setattr(version, "ask_driver", lambda: DriverAnswer(None, "no GPU"))
    line = re.escape(f"Main.py {VERSION}, Jittor 1.3.11.0, NumPy 1.26.4, device: CPU ")
    assert re.fullmatch(line + r"\(.*, \d+ cores?\)", describe_version("Main.py"))
    two = Driver(13000, (Card("NVIDIA H100", 90), Card("NVIDIA A2", 86)))
    monkeypatch.setattr(version, "ask_driver", lambda: DriverAnswer(two, ""))
    assert describe_devices() == f"CPU ({processor_name()}), GPU (NVIDIA H100), GPU (NVIDIA A2)"
    monkeypatch.setattr(version, "package_version", lambda _: "")
    assert f"Main.py {VERSION}, Jittor not installed, NumPy not" in describe_version("Main.py")


def test_every_documented_command_and_subcommand_has_it(monkeypatch, capsys):
    for script, parser in command_parsers().items():
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(["--version"])
        assert stop.value.code == 0, script
        assert VERSION in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["MakeData.py"])
    with pytest.raises(SystemExit):
        command_parsers()["MakeData.py"].parse_args(["sample", "--version"])
    assert capsys.readouterr().out.startswith(f"MakeData.py {VERSION}, ")


# ------------------------------------------------------------------------------ how to cite it all
def test_it_stands_in_one_place():
    """A line of code that names the version is that of command/version.py."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", VERSION)
    quoted = [path.name for path in [*ROOT.glob("*.py"), *ROOT.glob("[!t]*/*.py")]
              if f'"{VERSION}"' in path.read_text("utf-8")]
    assert quoted == ["version.py"]
    assert re.findall(r"^version: (.*)$", CITATION, re.M) == [VERSION]


def test_the_citation_agrees_with_the_licence():
    licence = (ROOT / "LICENSE").read_text("utf-8")
    holder = re.search(r"^Copyright \(c\) \d+ (.+)$", licence, re.M)[1]
    assert licence.startswith("MIT License\n")
    assert re.findall(r"^license: (.*)$", CITATION, re.M) == ["MIT"]
    assert re.findall(r"^authors:\n  - name: (.*)$", CITATION, re.M) == [holder]
    assert re.findall(r"^title: (.*)$", CITATION, re.M) == [
        (ROOT / "README.md").read_text("utf-8").split("\n")[0].removeprefix("# ")]


def test_the_citation_is_what_the_format_asks_for():
    """CFF 1.2.0: the keys that it needs, and references with type, title and people."""
    yaml = pytest.importorskip("ruyaml")
    cited = yaml.YAML(typ="safe").load(CITATION)
    assert cited.keys() <= {"cff-version", "message", "title", "type", "authors", "version",
                            "license", "abstract", "keywords", "references"}
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert all(cited[key] for key in ("message", "title", "authors"))
    unet, u2net = cited["references"]
    for paper, kind, people, doi in ((unet, "conference-paper", 3, "10.1007/978-3-319-24574-4_28"),
                                     (u2net, "article", 6, "10.1016/j.patcog.2020.107404")):
        assert (paper["type"], paper["doi"], len(paper["authors"])) == (kind, doi, people)
        assert paper["title"] and all(person.keys() == {"family-names", "given-names"}
                                      for person in paper["authors"])
