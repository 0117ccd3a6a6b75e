"""What the feature step promises: any string is fine, and no post depends on its neighbours."""

import io
import pickle
import sys
from collections.abc import Callable

import numpy as np
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from services.core.features import PostFeatures

LIKED = ["I love this so much :)", "what a good day 😂", "not bad, good even!", "so good"] * 3
DISLIKED = ["I hate this", "not good, so bad :(", "this is the worst day ever", "so bad"] * 3
NEUTRAL = ["the bus leaves at 10:30", "on @cnn today https://t.co/x", "day two of the talks"] * 4
POSTS = LIKED + DISLIKED + NEUTRAL
LABELS = ["positive"] * 12 + ["negative"] * 12 + ["neutral"] * 12

# fmt: off
PIECES = [
    "", "\n", "\r\n", "&#10;", "&NewLine;", "&", "amp;", "not", "GOOD", "good", "very", ".", "@",
    "#SoGood", "http://", "<3", ":(", "\x00", "\ud83d", "😂", "ΑΣ", "'", "!", "?", "#",
]
# fmt: on
any_text = st.text(st.characters(codec=None), max_size=60) | st.builds(
    str.join, st.sampled_from(["", " "]), st.lists(st.sampled_from(PIECES), max_size=8)
)


@pytest.fixture(scope="module")
def features() -> PostFeatures:
    return PostFeatures(topics=5).fit(POSTS, LABELS)


@pytest.fixture(scope="module")
def value(features: PostFeatures) -> Callable[[str, str], float]:
    names = features.get_feature_names_out().tolist()

    def look_up(text: str, name: str) -> float:
        return float(features.transform([text]).toarray()[0, names.index(name)])

    return look_up


def dense(features: PostFeatures, texts: list[str]) -> NDArray[np.float64]:
    matrix: NDArray[np.float64] = features.transform(texts).toarray()
    return matrix


@given(texts=st.lists(any_text, min_size=1, max_size=6))
def test_a_post_has_the_same_features_alone_and_in_a_batch(
    features: PostFeatures, texts: list[str]
) -> None:
    alone = np.vstack([dense(features, [text]) for text in texts])

    together = dense(features, texts)

    np.testing.assert_array_equal(together, alone)


def test_the_order_of_a_batch_does_not_matter(features: PostFeatures) -> None:
    backwards = dense(features, POSTS[::-1])

    np.testing.assert_array_equal(backwards[::-1], dense(features, POSTS))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t\r\n",
        "\x00\x01\x7f",
        "\ud800 lone \udfff surrogates",
        "&#" + "9" * 5000 + ";",
        "&#xD800; &#0; &#10; &bogus; &",
        "a" * 100_000,
        "#" + "aB" * 50_000,
        ":" * 100_000,
        "^" + "_" * 100_000,
        "&a" * 50_000,
        "!?" * 50_000,
        "very not good " * 8_000,
        "😂" * 25_000,
    ],
    ids=lambda text: ascii(text[:12]),
)
def test_no_string_is_refused(features: PostFeatures, text: str) -> None:
    row = dense(features, [text])

    assert np.isfinite(row).all()


def test_an_empty_batch_gives_an_empty_matrix(features: PostFeatures) -> None:
    assert features.transform([]).shape == (0, len(features.get_feature_names_out()))


def test_one_string_instead_of_a_list_is_refused(features: PostFeatures) -> None:
    with pytest.raises(ValueError, match="iterable of posts"):
        features.transform("good")


def test_every_column_has_its_own_name(features: PostFeatures) -> None:
    names = features.get_feature_names_out()

    assert len(set(names)) == len(names) == features.transform(["good"]).shape[1]
    assert {"good", "good_NEG", "so good", "lexicon:highest", "topic:0"} <= set(names)


def test_a_negator_marks_the_words_after_it(value: Callable[[str, str], float]) -> None:
    assert value("good", "good") > 0
    assert value("not good", "good") == 0
    assert value("not good", "good_NEG") > 0


def test_punctuation_ends_a_negation(value: Callable[[str, str], float]) -> None:
    assert value("not now, good", "good") > 0


@pytest.mark.parametrize("text", ["GOOD", "gooood", "#good", "Good!", "&quot;good&quot;", "good'"])
def test_spellings_of_a_word_are_one_word(value: Callable[[str, str], float], text: str) -> None:
    assert value(text, "good") > 0


def test_a_camel_case_hashtag_is_read_as_words(value: Callable[[str, str], float]) -> None:
    assert value("#SoGood", "so good") > 0


def test_every_link_is_the_same_word(value: Callable[[str, str], float]) -> None:
    assert value("http://never.seen/before", "http") > 0


def test_every_mention_is_the_same_word(features: PostFeatures) -> None:
    np.testing.assert_array_equal(
        dense(features, ["@so_good bad"]), dense(features, ["@never_seen bad"])
    )


def test_an_unfitted_step_says_so() -> None:
    with pytest.raises(NotFittedError):
        PostFeatures().transform(["good"])


def test_a_lexicon_word_counts_although_training_never_had_it(
    features: PostFeatures, value: Callable[[str, str], float]
) -> None:
    assert "superb" not in features.get_feature_names_out()
    assert value("superb", "lexicon:highest") > 0
    assert value("not superb", "lexicon:highest") == 0
    assert value("not superb", "lexicon:lowest") < 0


@pytest.mark.parametrize("strong", ["SUPERB", "very superb"])
def test_capitals_and_boosters_strengthen(value: Callable[[str, str], float], strong: str) -> None:
    assert value(strong, "lexicon:highest") > value("superb", "lexicon:highest")


@pytest.mark.parametrize("text", ["😂", ":)", "<3"])
def test_emoji_and_emoticons_have_a_valence(value: Callable[[str, str], float], text: str) -> None:
    assert value(text, "lexicon:highest") > 0


def test_words_and_pairs_of_a_post_have_length_one_together(features: PostFeatures) -> None:
    words_and_pairs = len(features.weights_)

    lengths = np.linalg.norm(
        dense(features, ["so good", "???", "qqqq"])[:, :words_and_pairs], axis=1
    )

    assert lengths == pytest.approx([1, 0, 0])


def test_stop_words_can_be_dropped_and_still_negate() -> None:
    names = PostFeatures(topics=5, stop_words=True).fit(POSTS, LABELS).get_feature_names_out()

    assert not {"this", "not", "this is"} & set(names)
    assert "good_NEG" in names


def test_fitting_works_without_labels_and_without_any_known_word() -> None:
    features = PostFeatures(topics=5).fit(["one", "two"])

    assert features.transform(["one three"]).shape == (1, len(features.get_feature_names_out()))


def test_fitting_twice_gives_the_same_columns(features: PostFeatures) -> None:
    again = clone(features).fit(POSTS, LABELS)

    np.testing.assert_array_equal(dense(again, POSTS), dense(features, POSTS))


def test_fitting_again_forgets_the_words_of_the_first_fit() -> None:
    features = PostFeatures(topics=5).fit(POSTS, LABELS)

    features.fit(DISLIKED + NEUTRAL, LABELS[12:])

    fresh = PostFeatures(topics=5).fit(DISLIKED + NEUTRAL, LABELS[12:])
    np.testing.assert_array_equal(dense(features, POSTS), dense(fresh, POSTS))


def test_a_full_memory_of_tokens_changes_nothing(
    features: PostFeatures, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dense(features, POSTS)
    monkeypatch.setattr("services.core.features._MAX_CACHED_TOKENS", 0)
    forgetful = pickle.loads(pickle.dumps(features))  # noqa: S301 - our own bytes

    result = dense(forgetful, POSTS)

    np.testing.assert_array_equal(result, expected)
    assert len(forgetful._numbers) == 0


def test_a_saved_pipeline_predicts_the_same_without_vader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [("features", PostFeatures(topics=5)), ("classifier", LogisticRegression())]
    pipeline = Pipeline(steps).fit(POSTS, LABELS)
    saved = io.BytesIO(skops.io.dumps(pipeline))
    monkeypatch.setitem(sys.modules, "vaderSentiment", None)

    unknown = skops.io.get_untrusted_types(data=saved.getvalue())
    loaded = skops.io.loads(saved.getvalue(), trusted=unknown)

    assert unknown == ["services.core.features.PostFeatures"]
    texts = [*POSTS, "never seen 😀 ÄÖ"]
    np.testing.assert_array_equal(loaded.predict_proba(texts), pipeline.predict_proba(texts))


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("what a good day", 1.0),
        ("what a zorblax day", 0.75),
        ("zorblax quimble", 0.0),
        ("What a GOOOD day!!! 😂 http://x.y", 1.0),
        ("zorblax, zorblax. good!", 1 / 3),
        ("", 1.0),
        ("...", 1.0),
    ],
)
def test_coverage_is_the_share_of_a_posts_words_that_were_learned(
    features: PostFeatures, text: str, share: float
) -> None:
    assert features.coverage([text]).tolist() == pytest.approx([share])


@given(texts=st.lists(any_text, max_size=6))
def test_coverage_is_a_share_and_does_not_depend_on_the_batch(
    features: PostFeatures, texts: list[str]
) -> None:
    found = features.coverage(texts)

    assert ((found >= 0) & (found <= 1)).all()
    assert found.tolist() == [float(features.coverage([text])[0]) for text in texts]
