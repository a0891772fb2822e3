"""Links of a notebook and of its executed copy lead to the same file."""

import posixpath
import re

import pytest
from tacit.running.staging import deepen_links, raise_links

TEXT = "See the [glossary](../docs/glossary.md), [speed](../docs/speed.md#here) and [a paper](https://arxiv.org/abs/1)."


@pytest.mark.parametrize("folder", ["full", "smoke-custom/00-sweep-1"])
def test_a_copy_links_to_the_same_files(folder):
    deeper = deepen_links(TEXT, folder=folder)
    links = re.findall(r"\]\(([^)#]+)", deeper)
    assert [posixpath.normpath(f"outputs/{folder}/{link}") for link in links[:2]] == [
        "docs/glossary.md",
        "docs/speed.md",
    ]
    assert links[2] == "https://arxiv.org/abs/1"
    assert raise_links(deeper) == TEXT == raise_links(TEXT)
    out = "[out](" + "../" * 20 + "etc/x)"
    assert raise_links(out) == out
    assert deepen_links("no (../links) here, `[0](../x`", folder=folder).startswith("no (../links) here")
