"""What a newcomer asks first is answered from the top of the README and of the site's first page, a click away."""

import re

from tests.support import ROOT
from tests.support.pages import anchors

TOP = 40  # lines that are read before scrolling
ROW = re.compile(r"^\| ([^|]+\?) \| \[([^|]*)\]\(([\w./-]+)?(?:#([\w-]+))?\) \|$")
# Of each question a word that the answer cannot do without.
ANSWERS = {
    "Does ALS beat Adam?": "per pass over the entries",
    "Which λ?": "jals.tune",
    "What is a certificate?": "backward error",
    "How much memory for 50 million ratings?": "GB for a fit",
    "How do I recommend to a new user?": "fold_in",
    "Does it run on my GPU?": "jals doctor",
    "How do I cite it?": "title",
    "My loss differs from implicit's or Spark's: why?": "multiplied by a row's number of ratings",
    "Can I differentiate through a fit?": "goes through a whole fit",
    "How do I add my own solver?": "def sweep",
}


def rows(page: str) -> dict[str, tuple[str, str, str]]:
    """Of the questions at the top of a page: (what is said at once, the file, the anchor)."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()[:TOP]
    found = [match.groups(default="") for match in map(ROW.match, lines) if match]
    return {question: (said, file, anchor) for question, said, file, anchor in found}


def test_every_question_is_answered_a_click_from_the_top():
    asked = rows("README.md")
    assert asked.keys() == ANSWERS.keys()
    for question, (said, file, anchor) in asked.items():
        text = (ROOT / file).read_text(encoding="utf-8")
        if anchor:
            assert anchor in anchors(text), question
            start = next(line for line in re.findall(r"^#+ .*$", text, re.M) if anchor in anchors(line))
            text = text[text.index(start + "\n") :]
        assert said and ANSWERS[question] in "\n".join(text.splitlines()[:TOP]), question


def test_the_first_page_of_the_site_answers_the_same():
    here, there = rows("docs/index.md"), rows("README.md")
    assert here.keys() == there.keys()
    for question, (said, file, anchor) in there.items():
        own = (said, file.removeprefix("docs/"), anchor) if file.startswith("docs/") else (said, "", "how-to-cite")
        assert here[question] == own
