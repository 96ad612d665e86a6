"""The pages: their steps, their messages, and the reference that is made from the code."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.pages import Typed, Written, missing, steps
from docs.terminals import Reader

ROOT = Path(__file__).resolve().parents[2]
PAGE = """\
```yaml title="there/file.yaml"
a: 1
```

```console title="one"
$ cat there/file.yaml
a: 1
$ for each in 1 2; do \\
  echo "$each of 2"; done
1 of 2
2 of 2
$ echo -n 'go on? [y/N]: '; read word; echo "it was $word"
go on? [y/N]: y
it was y
$ echo begun; sleep 60
begun
...
```

```console title="two"
$ echo "took 12.5 s" && mkdir -p there/deeper
took 3 min 4 s
$ cd there/deeper
$ ls ../file.yaml
../file.yaml
```

```console title="one"
^C
```
"""


def test_a_page_is_followed_in_its_order_and_terminals(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    found = list(steps(page, {"12.5": "13.5"}))
    assert isinstance(found[0], Written) and found[0].path == "there/file.yaml"
    typed = [each for each in found if isinstance(each, Typed)]
    assert [each.goes_on for each in typed] == [*3 * [False], True, *4 * [False]]
    assert typed[4].command == 'echo "took 13.5 s" && mkdir -p there/deeper'
    with Reader(tmp_path / "here") as reader:
        reader.follow(page, limit_sec=20)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("a: 1\n$ for", "a: 2\n$ for"), "page.md:6: was not printed: 'a: 2'"),
        (("1 of 2\n2 of 2\n", "2 of 2\n1 of 2\n"), "was not printed: '1 of 2'"),
        (("ls ../file.yaml", "ls ../none.yaml"), "was not printed"),
        (("^C", "$ true"), "is still at work"),
        (("sleep 60", "true"), "should go on"),
        (("cat there/file.yaml", "cat there/file.yaml; false"), "status"),
    ],
)
def test_what_is_not_as_the_page_says_is_told(
    change: tuple[str, str], told: str, tmp_path: Path
) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace(*change))
    with Reader(tmp_path / "here") as reader, pytest.raises(AssertionError) as error:
        reader.follow(page, limit_sec=20)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("shown", "printed", "line"),
    [
        (["3 clips", "loss 0.52"], "│ 3 clips │\n│ loss 0.1234 │", None),
        (["made ... in"], "made the thing\nin there", None),
        (["key 3f1c 8a02 77de 91b4 0c5e 62aa d1f8 4b39"], f"key{8 * ' 0000'}", None),
        (["3 clips"], "4 clips", "3 clips"),
        (["round 2/2"], "round 1/2", "round 2/2"),
    ],
)
def test_what_differs_from_time_to_time_may_differ(
    shown: list[str], printed: str, line: str | None
) -> None:
    assert missing(shown, printed) == line


def _texts() -> Iterator[str]:
    """Yield every string of the packages, with three dots for what is put in."""
    for folder in ("feat_fed", "server", "client"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value
                elif isinstance(node, ast.JoinedStr):
                    parts = (each.value for each in node.values if isinstance(each, ast.Constant))
                    yield "\n".join(map(str, parts))
    yield (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_message_of_the_faq_is_one_of_the_code() -> None:
    page = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
    messages = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert len(messages) > 40
    code = "\n".join(_texts())
    stable = {part.strip() for each in messages for part in each.split("...")}
    assert [part for part in sorted(stable) if part not in code] == []


def test_the_reference_has_every_command_key_code_and_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs/hooks"), *sys.path])
    from feat_fed.config import StudyConfig
    from from_models import config_page
    from from_protocol import audit_page, codes_page, protocol_page
    from from_typer import cli_page

    commands = cli_page()
    assert "#### feat-fed privacy plan" in commands and "| `--noise-multiplier` |" in commands
    study = config_page("The study", "", StudyConfig, "")
    assert "## `privacy.patient`" in study
    assert "| `clip_norm` | number, 1e-06 to 1e+06 | `1.0` | longest gradient" in study
    assert "| `not-finite` | a weight was not finite |" in codes_page()
    assert "### Assignment" in protocol_page() and "### KeyOffer" in protocol_page()
    assert "## `bundle-approved`, `bundle-withdrawn`" in audit_page()
