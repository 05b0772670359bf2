"""Everyday tasks as a user's script does them: from a file of plays to names, for a listener, an artist, a newcomer."""

import numpy as np
import pytest

import jals
from tests.support import needs

needs("tables")
needs("cli")

SCENES = {"jazz": 8, "metal": 8, "folk": 8}  # artists in each; listeners keep to one scene
ARTISTS = [f"{scene} band {number}" for scene, count in SCENES.items() for number in range(count)]


@pytest.fixture(scope="module")
def plays(tmp_path_factory):
    """A csv of who played whom how often, and when. Every listener has played most of a scene, and little else."""
    rng = np.random.default_rng(0)
    lines = ["listener,artist,plays,time"]
    for number in range(60):
        scene = list(SCENES)[number % 3]
        for artist in ARTISTS:
            if rng.random() < (0.7 if artist.startswith(scene) else 0.03):
                lines.append(f"user{number},{artist},{1 + rng.poisson(20)},{rng.integers(10**9)}")
    path = tmp_path_factory.mktemp("plays") / "plays.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(plays, tmp_path_factory):
    """A file of factors that answers by names."""
    ratings, vocab = jals.read_ratings(plays, user="listener", item="artist", value="plays")
    objective = jals.hu_koren(reg=1.0, alpha=1.0, epsilon=1.0)
    result = jals.fit(jals.ALS(4), jals.Problem.build(ratings), objective, sweeps=10)
    path = tmp_path_factory.mktemp("model") / "plays.npz"
    jals.save(path, result.factors, vocab, objective, seen=ratings)
    return path


def scene_of(artists) -> list[str]:
    return [str(artist).split()[0] for artist in artists]


def test_from_plays_to_artists_that_a_listener_has_not_heard(plays, model):
    artists, scores = jals.load(model).recommend(["user1", "user2"], k=2)
    assert [scene_of(row) for row in artists] == [["metal"] * 2, ["folk"] * 2]
    assert (np.diff(scores, axis=1) <= 0).all()
    heard = {tuple(line.split(",")[:2]) for line in plays.read_text(encoding="utf-8").splitlines()}
    told = [(user, artist) for user, row in zip(("user1", "user2"), artists, strict=True) for artist in row]
    assert not heard & set(told)


def test_artists_like_one(model):
    artists, _ = jals.load(model).similar(["folk band 3"], k=5)
    assert scene_of(artists[0]) == ["folk"] * 5 and "folk band 3" not in artists[0]


def test_a_newcomer_who_names_two_artists(model):
    newcomer = jals.load(model).fold_in("me", ["jazz band 0", "jazz band 5"], values=[30.0, 10.0])
    artists, _ = newcomer.recommend("me", k=4)
    assert scene_of(np.ravel(artists)) == ["jazz"] * 4
    with pytest.raises(jals.DataError, match='Did you mean "jazz band 5"'):
        jals.load(model).fold_in("me", ["jaz band 5"])


def test_how_well_the_last_play_of_each_listener_is_foreseen(plays):
    ratings, _ = jals.read_ratings(plays, user="listener", item="artist", value="plays", time="time")
    train, last = jals.split.leave_last_out(ratings)
    solver, problem, objective = jals.ALS(4), jals.Problem.build(train), jals.hu_koren(reg=1.0, epsilon=1.0)
    result = jals.fit(solver, problem, objective, sweeps=10, validation=last, metric="ndcg@10", patience=3)
    found = jals.metrics.ranking(result.factors, last, train, k=10, metrics=("ndcg", "hit_rate"))
    popular = jals.metrics.ranking(jals.baselines.most_popular(train).scores, last, train, 10, ("ndcg", "hit_rate"))
    better = found.minus(popular)
    assert found.mean["ndcg@10"] == pytest.approx(max(result.history.validation))
    assert better.mean["ndcg@10"] > 2 * better.stderr["ndcg@10"] > 0


@pytest.mark.slow
def test_lambda_within_seconds_then_ten_artists(plays, tmp_path):
    from tests.support.commands import jals_command

    config = tmp_path / "plays.toml"
    config.write_text(
        f"""
[data]
path = "{plays.as_posix()}"
user = "listener"
item = "artist"
value = "plays"

[split]
kind = "random"
test_fraction = 0.1
validation_fraction = 0.1

[objective]
preset = "hu_koren"
reg = 1.0

[[solver]]
kind = "als"
rank = 4

[fit]
sweeps = 5

[tune]
trials = 50
seconds = 1.0

[tune.range]
"objective.reg" = [0.1, 10.0]
""",
        encoding="utf-8",
    )
    done = jals_command("run", config, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    shown = jals_command("recommend", tmp_path / "run", "--user", "user4", "-k", 10)
    assert shown.exit_code == 0 and "metal band" in shown.output, shown.output
