"""The stand-ins for public datasets: a scraped set and a spoiled one."""

from dataclasses import replace

import pytest
from tacit.findings.publicsets import plain_texts, scrape_faq, spoil
from tacit.microworld.examples import draw_examples
from tacit.microworld.tasks import Task, judge


def test_the_scraped_set_is_right_short_and_without_test_items(world):
    rows = scrape_faq(world, n=60, seed=1)
    assert len(set(rows["instruction"])) == 60
    assert all("\n" not in text and len(text.split()) <= 12 for text in rows["response"])
    tests = draw_examples(world, split="test", n=200, seed=1, constrained=1.0)
    taboo = plain_texts(tests)
    plain = [replace(Task.from_json(task), constraints=()).instruction for task in tests["task"]]
    assert set(plain) <= taboo and set(rows["instruction"]) & taboo
    assert not set(scrape_faq(world, n=60, seed=1, without=taboo)["instruction"]) & taboo
    homes = [row for row in rows if row["instruction"].startswith("Where does the ")]
    for row in homes:
        subject = row["instruction"].removeprefix("Where does the ").removesuffix(" live?")
        assert world.facts[subject, "home"] in row["response"]
    with pytest.raises(ValueError, match="hold only"):
        scrape_faq(world, n=5, seed=1, most_words=0)


def test_a_spoiled_set_is_wrong_as_often_as_asked(world):
    clean = draw_examples(world, split="train", n=400, seed=1, constrained=1.0)

    def right(rows):
        tasks = map(Task.from_json, clean["task"])
        return [judge(world, t, text, ended=True).strict for t, text in zip(tasks, rows["response"], strict=True)]

    assert all(right(spoil(world, clean, seed=1, ignored=0.0, misplaced=0.0)))
    share = sum(right(spoil(world, clean, seed=1, ignored=0.3, misplaced=0.3))) / len(clean)
    assert 0.3 < share < 0.52  # 0.4, and the few whose constraint the plain answer meets anyway
    assert sum(right(spoil(world, clean, seed=1, ignored=0.0, misplaced=1.0))) < 0.1 * len(clean)
