"""The page of `jals explore`: what its server answers, and a visitor in a browser."""

import contextlib
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request

import numpy as np
import pytest
from rich.console import Console

import jals
from jals.app.commands import explore as room
from tests.support import needs
from tests.support.commands import jals_command, write_experiment
from tests.support.pages import HOSTILE

needs("explore")

from jals.app.commands.explore import figure, page, serving  # noqa: E402 - they need Dash
from jals.app.commands.explore.answers import Answers  # noqa: E402
from jals.app.commands.explore.search import Finder  # noqa: E402
from jals.plot.item_map import ItemMap  # noqa: E402


def made_up(objective=None, users=400, items=300, titles=None):
    """The page of factors drawn at random."""
    objective = objective or jals.als_wr(0.1, bias=True, center=True)
    data, factors = jals.datasets.synthetic(users, items, 4, 0.1, seed=1, bias=objective.bias, skew=1.0)
    value = (1 + np.arange(len(data.ratings)) % 5).astype(np.float32)
    train = jals.Ratings.from_arrays(data.ratings.user, data.ratings.item, value, users, items)
    answers = Answers(factors, objective, train)
    titles = [f"Title {row}" for row in range(items)] if titles is None else titles
    people = Finder(np.arange(users), None, np.bincount(train.user, minlength=users))
    return page.Explored(
        "made up", "facts", answers, Finder(np.arange(items), titles, answers.entries), people,
        ItemMap(answers.item, answers.entries, most=100),
    )  # fmt: skip


class Visitor:
    """Asks the page's server as the browser does."""

    def __init__(self, explored):
        server = page.application(explored).server
        serving.guard(server)
        self.client = server.test_client()
        self.calls = {call["output"]: call for call in self.client.get("/_dash-dependencies").json}

    def ask(self, output, changed, **given):
        """What the call that makes `output` answers, by its outputs; `given`: inputs and states by name__property."""
        (name,) = [one for one in self.calls if one.startswith((output, f"..{output}"))]
        call = self.calls[name]
        parts = [one.rpartition(".") for one in name.strip(".").split("...")]
        outputs = [{"id": part[0], "property": part[2]} for part in parts]

        def held(spec):
            if spec["id"].startswith("{"):
                pattern = json.loads(spec["id"])
                return [
                    {"id": pattern | {"index": row}, "property": spec["property"], "value": value}
                    for row, value in given.get(pattern["type"], {}).items()
                ]
            return spec | {"value": given.get(f"{spec['id']}__{spec['property']}")}

        body = {"output": name, "outputs": outputs if name.startswith("..") else outputs[0]}
        body |= {"changedPropIds": [changed]}
        body |= {"inputs": list(map(held, call["inputs"])), "state": list(map(held, call.get("state", [])))}
        answer = self.client.post("/_dash-update-component", json=body)
        if answer.status_code == 204:
            return {}
        assert answer.status_code == 200, answer.text
        return answer.json["response"]

    def change(self, changed, ratings, **given):
        """The ratings after a change; as they were where nothing is to change."""
        return self.ask("ratings", changed, ratings__data=ratings, **given).get("ratings", {}).get("data", ratings)


def texts(component):
    """All that a component says, in order."""
    if isinstance(component, dict):
        return texts(component.get("props", {}).get("children"))
    if isinstance(component, list):
        return [text for each in component for text in texts(each)]
    return [] if component is None else [str(component)]


def test_a_browser_gets_no_list_of_all_rows():
    visitor = Visitor(made_up())
    assert len(visitor.client.get("/_dash-layout").data) < 40_000
    found = visitor.ask("user.options", "user.search_value", user__search_value="39", user__value=7)["user"]["options"]
    offered = [option["value"] for option in found if option.get("search") == "39"]
    assert offered[0] == 39 and set(offered[1:11]) == set(range(390, 400)) and set(offered[11:]) == {139, 239, 339}
    assert found[-1]["value"] == 7, "what is chosen stays, or it could not be shown"
    (nothing,) = visitor.ask("item.options", "item.search_value", item__search_value="zebra")["item"]["options"]
    assert nothing["disabled"] and nothing["search"] == "zebra"


def test_changes_are_kept_and_undone():
    explored = made_up()
    visitor, answers = Visitor(explored), explored.answers
    start = visitor.change("user.value", page.NOTHING, user__value=3)
    assert start == page.NOTHING | {"user": 3}
    own = page.rated_of(answers, start)
    first, second = map(int, own.item[:2])
    new = next(item for item in range(300) if item not in own.item)
    added = visitor.change("add.value", start, add__value=new)
    assert added["changed"] == [[new, 5]] and page.held(answers, added, new) == 5
    lowest = int(own.item[-1])
    assert visitor.change("add.value", start, add__value=lowest)["changed"] == [[lowest, own.value[-1]]]
    assert own.value[-1] < answers.liked
    assert visitor.change("take.n_clicks", start, take__n_clicks=1, item__value=new)["changed"] == [[new, 5]]
    at = lambda kind, row, name: f'{{"index":{row},"type":"{kind}"}}.{name}'  # noqa: E731
    lower = visitor.change(at("value", first, "value"), added, value={first: 1.5})
    assert lower["changed"] == [[new, 5], [first, 1.5]]
    for nothing in (float(own.value[1]), None):  # a field that is drawn again, or emptied
        assert visitor.change(at("value", second, "value"), lower, value={second: nothing}) == lower
    dropped = visitor.change(at("drop", new, "n_clicks"), lower, drop={new: 1})
    dropped = visitor.change(at("drop", second, "n_clicks"), dropped, drop={second: 1})
    assert dropped == {"user": 3, "changed": [[first, 1.5]], "dropped": [new, second]}
    assert visitor.change(at("drop", first, "n_clicks"), dropped, drop={first: None}) == dropped
    assert second not in page.rated_of(answers, dropped).item
    assert visitor.change("add.value", dropped, add__value=second)["dropped"] == [new]
    assert visitor.change("reset.n_clicks", dropped, reset__n_clicks=1) == start
    assert visitor.change("user.value", dropped, user__value=None) == page.NOTHING


def test_recommendations_follow_the_ratings_and_say_what_moved():
    explored = made_up()
    visitor, before = Visitor(explored), {"user": None, "items": []}
    ask = lambda ratings, before, **more: visitor.ask(  # noqa: E731
        "history", "ratings.data", ratings__data=ratings, before__data=before, least__value=0, **more
    )
    empty = ask(page.NOTHING, before)
    assert "Add an item that you like" in " ".join(texts(empty["best"]["children"]))
    one = ask(page.NOTHING | {"changed": [[4, 5.0]]}, before)
    expected = explored.answers.recommended(explored.answers.rated(None, {4: 5.0}))
    assert one["before"]["data"] == {"user": None, "items": [best.item for best in expected]}
    said = texts(one["best"]["children"])
    assert [text for text in said if text in {f"Title {best.item}" for best in expected}] == [
        f"Title {best.item}" for best in expected
    ]
    assert f"{expected[0].score:.2f}" in said and f"{explored.answers.entries[expected[0].item]:,}" in said
    assert "Title 4" in said and f"{expected[0].reasons[0][1]:+.2f}" in said
    assert texts(one["count"]["children"]) == ["1 item, 1 changed here"]
    two = ask(page.NOTHING | {"changed": [[4, 5.0], [9, 1.0]]}, one["before"]["data"])
    old, now = one["before"]["data"]["items"], two["before"]["data"]["items"]
    assert old != now
    marks = [text for text in texts(two["best"]["children"]) if text == "new" or re.match("[▲▼] ", text)]
    moved = [
        "new" if item not in old else f"{'▲' if old.index(item) > place else '▼'} {abs(old.index(item) - place)}"
        for place, item in enumerate(now)
        if item not in old or old.index(item) != place
    ]
    assert marks == moved


def test_a_model_that_ignores_values_has_no_fields_for_them():
    for objective, fields in ((jals.ials(0.1, 0.1), 0), (jals.als_wr(0.1), 1)):
        visitor = Visitor(made_up(objective))
        made = visitor.ask("history", "ratings.data", ratings__data=page.NOTHING | {"changed": [[4, 5.0]]},
                           before__data={"user": None, "items": []}, least__value=0)  # fmt: skip
        assert json.dumps(made["history"]).count('"type": "Input"') == fields
        layout = visitor.client.get("/_dash-layout").text
        assert ("values change nothing" in layout) == (not fields)


def test_what_the_objective_refuses_is_said_on_the_page():
    visitor = Visitor(made_up(jals.explicit(0.0)))
    told = visitor.ask("history", "ratings.data", ratings__data=page.NOTHING | {"changed": [[4, 5.0]]},
                       before__data={"user": None, "items": []}, least__value=0)  # fmt: skip
    assert "Raise reg" in " ".join(texts(told["best"]["children"]))


def test_the_map_marks_what_is_selected_and_shows_titles_as_they_are():
    explored = made_up(titles=[HOSTILE] * 300)
    drawn = figure.drawing(explored.plane, explored.items, explored.answers.entries)
    points = drawn["data"][0]
    assert len(points["x"]) == 100 and sorted(points["customdata"]) == sorted(explored.plane.drawn.tolist())
    assert not any("<script" in text or "<img" in text for text in points["text"])
    visitor = Visitor(explored)
    hidden = int(np.setdiff1d(np.arange(300), explored.plane.drawn)[0])
    ask = {"item__value": hidden, "measure__value": "cosine", "least__value": 0}
    made = visitor.ask("near.children", "item.value", ratings__data=page.NOTHING | {"user": 3}, **ask)
    traces = [one["params"]["value"] for one in made["map"]["figure"]["operations"]]
    own, near, selected = (trace["customdata"] for trace in traces)
    assert selected == [hidden] and near == [row for row, _ in explored.answers.near(hidden)]
    assert own == explored.answers.rated(3).item[: page.MARKED].tolist()
    np.testing.assert_allclose([traces[2]["x"][0], traces[2]["y"][0]], explored.plane.place([hidden])[0], atol=1e-4)
    click = {"points": [{"customdata": 17}]}
    chosen = visitor.ask("item.value", "map.clickData", map__clickData=click)["item"]
    assert chosen["value"] == 17 and 17 in [option["value"] for option in chosen["options"]]


def test_only_this_computer_is_answered():
    client = Visitor(made_up(items=20, users=20)).client
    for headers, status in (
        ({}, 200),
        ({"Host": "127.0.0.1:1234", "Origin": "http://127.0.0.1:1234"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "elsewhere.example"}, 403),
        ({"Host": "127.0.0.1.elsewhere.example"}, 403),
        ({"Host": "localhost", "Origin": "http://elsewhere.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
    ):
        answer = client.get("/", headers=headers)
        assert answer.status_code == status, headers
        assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    outside = re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']*""", client.get("/").text)
    assert outside == []


@pytest.mark.parametrize("saved", ["text"], indirect=True)
def test_a_port_in_use_is_said(saved):
    place, *_ = saved
    with socket.socket() as taken:
        taken.bind((serving.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        told = jals_command("explore", place, "--solver", "small", "--port", port, "--no-browser")
    assert told.exit_code == 2 and f"port {port} of 127.0.0.1 cannot be had" in told.output


def test_a_run_without_factors_is_said(tmp_path):
    told = jals_command("explore", tmp_path, "--no-browser")
    assert told.exit_code == 2 and "not the folder of a `jals run`" in told.output


def test_the_browser_is_opened_where_there_is_a_display_and_wanted(monkeypatch):
    opened, said = [], io.StringIO()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(serving.webbrowser, "open", lambda address: opened.append(address) or True)

    def interrupted():
        raise KeyboardInterrupt  # as between two lines of the server's own

    server = types.SimpleNamespace(port=8123, serve_forever=interrupted)
    for display, wanted in ((":0", True), ("", True), (":0", False)):
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.setenv("WAYLAND_DISPLAY", "")
        turn = threading.Lock()
        serving.serve(server, Console(file=said, width=120), wanted, turn)
        assert turn.locked(), "nothing new begins"
    assert opened == ["http://127.0.0.1:8123/"]
    assert said.getvalue().count("No browser could be started") == 1
    assert said.getvalue().count("The page has ended.") == 3


@pytest.mark.slow
def test_ctrl_c_ends_it(tmp_path):
    """As a command of its own, which answers until then."""
    assert jals_command("run", write_experiment(tmp_path), "--out", tmp_path / "run").exit_code == 0
    # A process in the background, as a test's may be, is started deaf to it.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{heard}; from jals.app import cli; cli.main()"
    command = [sys.executable, "-c", start, "explore", tmp_path / "run", "--no-browser"]
    going = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    with going:
        address = re.search(r"http://127\.0\.0\.1:\d+/", going.stdout.readline())
        assert address, going.stderr.read()
        with urllib.request.urlopen(address[0]) as answer:
            assert b"jals explore: run" in answer.read()
        going.send_signal(signal.SIGINT)
        said, wrong = going.communicate(timeout=60)
    assert going.returncode == 0 and "has ended" in said and wrong == ""
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address[0])


@contextlib.contextmanager
def served(explored):
    """The address of a page that answers meanwhile."""
    server = serving.listen(page.application(explored).server, None)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://{serving.HOST}:{server.port}/"
    finally:
        server.shutdown()
        thread.join()


STICKING_OUT = """() => [...document.querySelectorAll(".page *")]
    .filter(each => !each.closest("svg, .dash-dropdown-content"))
    .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5)
    .map(each => each.outerHTML.slice(0, 80))"""


@pytest.mark.slow
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("saved", ["whole"], indirect=True)
def test_a_visitor_searches_clicks_and_rates(browser, saved, width, scheme):
    place, table, train = saved
    explored = room.explored(place, room.open_run(place, Console(quiet=True), "small"))
    explored.answers.compile()
    with served(explored) as address:
        view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        said, asked = [], []
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(address)
        view.locator("#near li").first.wait_for()

        def pick(name, text):
            view.click(f"#{name}")
            view.fill(".dash-dropdown-search", text)
            view.locator(".dash-dropdown-option", has_text=text).first.click()

        pick("item", "Title 5")
        like = explored.answers.near(5, least=explored.answers.least)
        view.locator("#near li .choose").first.and_(view.get_by_text(table.titles[like[0][0]])).wait_for()
        view.locator("#near li .choose").first.click()
        view.locator("#item", has_text=table.titles[like[0][0]]).wait_for()

        view.fill("#least", "0")
        pick("user", str(table.vocab.user[4]))
        listed = lambda: view.locator("#best .line .choose").all_inner_texts()  # noqa: E731
        titles = lambda rated: [table.titles[one.item] for one in explored.answers.recommended(rated)]  # noqa: E731
        plain, unrated = explored.answers.rated(4), np.setdiff1d(np.arange(8), train.item[train.user == 4])
        view.wait_for_function(f"() => document.querySelectorAll('#best .best > li').length == {len(unrated)}")
        assert listed() == titles(plain)
        first = int(plain.item[0])
        view.locator("#history li", has_text=table.titles[first]).locator("input").fill("1")
        view.locator("#count", has_text="1 changed here").wait_for()
        changed = explored.answers.rated(4, {first: 1.0})
        assert titles(changed) and listed() == titles(changed)
        scores = view.locator("#best .score").all_inner_texts()
        assert scores == [f"{one.score:.2f}" for one in explored.answers.recommended(changed)]
        view.locator("#history li", has_text=table.titles[first]).locator(".drop").click()
        view.locator("#best .choose", has_text=table.titles[first]).first.wait_for()

        last = view.locator("#best .line .choose").last
        last.scroll_into_view_if_needed()
        last.click()  # and the page goes up to show what is like it
        view.locator("#item", has_text=last.inner_text()).wait_for()
        view.wait_for_function("() => document.querySelector('section.near').getBoundingClientRect().top >= -1")

        assert view.evaluate("document.documentElement.scrollWidth") <= width
        assert view.evaluate(STICKING_OUT) == []
        assert {url.split("/")[2] for url in asked if not url.startswith(("data:", "blob:"))} == {address.split("/")[2]}
        assert said == []
        view.close()
