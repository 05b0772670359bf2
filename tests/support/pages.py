"""A page as a test reads it, and as a browser shows it."""

import html.parser
import re

HOSTILE = '</td><script>alert("&")</script><img src=x onerror=alert(1)>'


class Reader(html.parser.HTMLParser):
    """The elements of a page, its tables as lists of rows of cells, and all its text."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.tables, self.text, self.inside = [], [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag in ("style", "script", "td", "th"):
            self.inside = tag
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, text):
        if self.inside not in ("style", "script"):
            self.text += text
        if self.inside in ("td", "th"):
            self.tables[-1][-1][-1] += text


def anchors(text: str) -> set[str]:
    """What the headings of a Markdown file can be linked by, where code hosts and the site agree: those in ASCII."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings if each.isascii()}


_STICKING_OUT = """() => [...document.querySelectorAll("body *")]
    .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5 || each.getBoundingClientRect().left < -0.5)
    .map(each => each.outerHTML.slice(0, 80))"""


def check_in_browser(browser, page, width, scheme, least):
    """Everything folds open, shows at least so many pictures in the scheme's colours, sticks out nowhere, asks for
    nothing and logs nothing."""
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    said, asked = [], []
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page.as_uri())
    view.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
    widths = view.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert len(widths) >= least and all(widths)
    dark = view.evaluate("[...document.images].every(image => image.currentSrc !== image.src)")
    assert dark == (scheme == "dark")
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    assert view.evaluate(_STICKING_OUT) == []
    assert said == []
    view.close()
