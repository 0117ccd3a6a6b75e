"""Turns posts into the numbers the sentiment classifier sees.

`PostFeatures` is the first step of the scikit-learn pipeline: the trainer fits it, the predictor
only calls `transform`. It must not know where posts come from or which classifier follows.

A batch is worked on as one string and then as flat arrays, because a Python loop over posts and
tokens is what makes text features slow:

1. Posts are joined, each behind a line break; line breaks inside a post become spaces. Entities,
   links, mentions and hashtags are rewritten by one regular expression each, and one `findall`
   cuts the whole batch into tokens.
2. Each distinct token becomes a word number once, in `_WordNumbers`: lower case, "soooo" read as
   "soo", any number as "0". A token seen before costs one dictionary look-up.
3. The rest is numpy over all tokens of the batch: which post a token belongs to, whether a negator
   ("not", "don't") stands close before it, which word pairs are known.

A row of the result holds three groups of columns:

- words and word pairs; "good_NEG" is "good" after a negator. They are weighted by the square root
  of the largest naive Bayes log-count ratio over the classes (after Wang and Manning 2012: a word
  that leans to one class counts for more) and together scaled to length one;
- what the VADER lexicon says: sums, extremes and counts of word valences, where negators, boosters
  ("very") and capitals count. The lexicon is copied at fit time: predicting needs no VADER;
- topics: the mean vector of the words, from a truncated SVD of which words stand near each other
  in the training posts. Rare words borrow weight from common words used like them.

No row depends on the other posts of the batch.
"""

import html
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from sklearn.utils.extmath import randomized_svd
from sklearn.utils.validation import check_is_fitted

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_BREAK = "\n"
_UNKNOWN = "<unknown>"
_FIRST_WORD = 2  # the first two word numbers are _BREAK and _UNKNOWN
_MAX_TOKEN_CHARS = 40
_TINY = 1e-9  # divides instead of zero
_MAX_CACHED_TOKENS = 200_000

# The length limits keep html.unescape away from integers that Python refuses to parse.
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[a-zA-Z]\w{1,30});?")
_LINK = re.compile(r"https?:\S*")
_MENTION = re.compile(r"@\w+")
_CAMEL_TAG = re.compile(r"#(\w*?[a-z][A-Z0-9]\w*)")
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z0-9])|(?<=[A-Z])(?=[A-Z][a-z])")
# Plain ranges, because \w costs twice the time; they include the vowel signs that \w leaves out.
_LETTER = r"A-Za-z0-9_\u00c0-\u1fff\u2c00-\ud7ff\uf900-\ufdff"
_TOKEN = re.compile(
    rf"""[{_LETTER}][{_LETTER}'’]*
    | \n
    | (?=[<>:;=^-]) (?:
        [<>]?[:;=][-'o^*]?[)(\]\[dDpPoO3/\\|*@sS]+(?![{_LETTER}])  # :-) =D
        | </?3+ | \^_*\^ | [->=]_+[-<=]                            # <3 ^_^ -_-
      )
    | [!?]+ | \.\.+
    | [.,:;@\#\u00a1-\u00bf\u2010-\u2bff\u3000-\u303f\U0001f000-\U0001ffff]  # punctuation, emoji
    """,
    re.VERBOSE,
)
_REPEATED = re.compile(r"(\w)\1{2,}")

# fmt: off
_NEGATORS = frozenset([
    "ain't", "aint", "arent", "barely", "can't", "cannot", "cant", "couldnt", "didn't", "didnt",
    "doesn't", "doesnt", "don't", "dont", "hadnt", "hardly", "hasnt", "havent", "isn't", "isnt",
    "neither", "never", "no", "nobody", "none", "nor", "not", "nothing", "nowhere", "shouldnt",
    "wasn't", "wasnt", "werent", "without", "won't", "wont", "wouldn't", "wouldnt",
])
_CLOSERS = frozenset([_BREAK, "but", ".", "..", ",", ":", ";", "!", "!!", "?", "??", "?!"])
# fmt: on
_SCORED = ["positive", "negative", "positive_NEG", "negative_NEG"]
_LEXICON_COLUMNS = [
    *(f"{name}_{measure}" for measure in ("count", "valence", "strength") for name in _SCORED),
    *("highest", "lowest", "last", "balance"),
]
_FLIP, _CAPITALS, _FAR_BOOST = -0.74, 0.733, 0.95  # the factors of VADER's rules


class _WordNumbers(dict[str, int]):
    """Token -> twice its word number, plus one if in capitals; remembers a bounded number."""

    def __init__(self, words: Iterable[str]) -> None:
        super().__init__()
        self._numbers = {word: number for number, word in enumerate(words)}

    def __missing__(self, token: str) -> int:
        if len(token) > _MAX_TOKEN_CHARS:
            return 2 * self._numbers[_UNKNOWN]
        number = self._numbers.get(_word(token), self._numbers[_UNKNOWN])
        code = 2 * number + (len(token) > 1 and token.isupper())
        if len(self) < _MAX_CACHED_TOKENS:
            self[token] = code
        return code


class _Batch(NamedTuple):
    """The tokens of some posts, one array element each; every post begins with a _BREAK."""

    posts: int
    row: Ints
    word: Ints
    negated: Flags
    capitals: Flags


class PostFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # sklearn is untyped
    """Posts (any strings) to a sparse matrix. The module's docstring explains the columns.

    min_count, min_pair_count: how often a word or pair must occur in training to get a column.
    negation_tokens: how many tokens after a negator are marked, unless punctuation comes first.
    stop_words: drop English stop words; off, because that costs accuracy.
    """

    def __init__(
        self,
        *,
        min_count: int = 3,
        min_pair_count: int = 3,
        pair_weight: float = 0.6,
        negation_tokens: int = 4,
        lexicon_weight: float = 0.3,
        topics: int = 50,
        topic_weight: float = 0.3,
        stop_words: bool = False,
    ) -> None:
        self.min_count = min_count
        self.min_pair_count = min_pair_count
        self.pair_weight = pair_weight
        self.negation_tokens = negation_tokens
        self.lexicon_weight = lexicon_weight
        self.topics = topics
        self.topic_weight = topic_weight
        self.stop_words = stop_words

    def fit(self, texts: Iterable[str], y: Iterable[Any] | None = None) -> Self:
        """Learn the columns. Without labels `y` all words weigh the same."""
        self.__dict__.pop("_numbers", None)
        posts = _listed(texts)
        valences, boosts = _vader()
        counts = Counter(map(_word, _tokens(posts)))
        frequent = {word for word, count in counts.items() if count >= self.min_count}
        # Frequent words first: what a batch touches then lies together in memory.
        known = (frequent | valences.keys() | boosts.keys() | _NEGATORS | _CLOSERS) - {_BREAK}
        words = [_BREAK, _UNKNOWN, *sorted(known, key=lambda word: (-counts[word], word))]
        self.words_ = np.array(words)
        self.valence_ = np.array([valences.get(word, 0.0) for word in words])
        self.boost_ = np.array([boosts.get(word, 0.0) for word in words])
        self.negates_ = np.array([w in _NEGATORS or w.endswith("n't") for w in words])
        self.closes_ = np.array([word in _CLOSERS for word in words])

        batch = self._read(posts)
        self._choose_columns(batch)
        self._weigh_columns(batch, y)
        self.topics_ = self.topic_weight * _word_vectors(batch, len(words), self.topics)
        return self

    def transform(self, texts: Iterable[str]) -> sparse.csr_matrix:
        if "words_" not in self.__dict__:  # check_is_fitted takes as long as ten posts
            raise NotFittedError("fit PostFeatures before transform")
        batch = self._read(_listed(texts))
        rows, columns = self._columns(batch)
        weights = self.weights_[columns]
        lengths = np.sqrt(np.bincount(rows, weights * weights, minlength=batch.posts))
        dense = np.hstack([self._lexicon(batch), self._topics(batch)])
        # Each row of the result is the row's words and pairs, then its line of `dense`.
        width = dense.shape[1]
        ends = np.cumsum(np.bincount(rows, minlength=batch.posts) + width)
        sparse_places = np.arange(len(rows)) + width * rows
        dense_places = (ends[:, np.newaxis] + np.arange(-width, 0)).ravel()
        values = np.empty(len(rows) + dense.size)
        values[sparse_places] = weights / np.maximum(lengths, _TINY)[rows]
        values[dense_places] = dense.ravel()
        indices = np.empty(len(values), np.int32)
        indices[sparse_places] = columns
        indices[dense_places] = np.tile(np.arange(width) + len(self.weights_), batch.posts)
        starts = np.concatenate([[0], ends]).astype(np.int32)
        shape = (batch.posts, len(self.weights_) + width)
        return sparse.csr_matrix((values, indices, starts), shape=shape)

    def coverage(self, texts: Iterable[str]) -> Floats:
        """The share of each post's words that were learned or are in the lexicon, in 0..1; 1 for a
        post without words. Emoji, numbers and links are words, punctuation that ends a clause is
        not.
        """
        check_is_fitted(self)
        batch = self._read(_listed(texts))
        counted = ~self.closes_[batch.word]
        known = counted & (batch.word >= _FIRST_WORD)
        words, known_words = (
            np.bincount(batch.row[chosen], minlength=batch.posts) for chosen in (counted, known)
        )
        shares: Floats = np.where(words > 0, known_words / np.maximum(words, 1), 1.0)
        return shares

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:
        """Column names: "good", "good_NEG", "so good", "lexicon:highest", "topic:7"."""
        check_is_fitted(self)
        coded = [name for word in self.words_ for name in (word, f"{word}_NEG")]
        pairs = (divmod(int(pair), len(coded)) for pair in self.pairs_)
        names = [coded[code] for code in np.flatnonzero(self.word_columns_ >= 0)]
        names += [f"{coded[first]} {coded[second]}" for first, second in pairs]
        names += [f"lexicon:{name}" for name in _LEXICON_COLUMNS]
        names += [f"topic:{number}" for number in range(self.topics_.shape[1])]
        return np.array(names, dtype=object)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_numbers"}

    def _read(self, posts: list[str]) -> _Batch:
        if "_numbers" not in self.__dict__:
            self._numbers = _WordNumbers(self.words_.tolist())
        tokens = _tokens(posts)
        codes = np.fromiter(map(self._numbers.__getitem__, tokens), np.int64, len(tokens))
        word = codes >> 1
        place = np.arange(len(word))
        negator = np.maximum.accumulate(np.where(self.negates_[word], place, -len(word)))
        closer = np.maximum.accumulate(np.where(self.closes_[word], place, 0))
        distance = place - negator
        return _Batch(
            posts=len(posts),
            row=np.cumsum(word == 0) - 1,
            word=word,
            negated=(negator > closer) & (distance > 0) & (distance <= self.negation_tokens),
            capitals=(codes & 1).astype(bool),
        )

    def _choose_columns(self, batch: _Batch) -> None:
        allowed = np.arange(len(self.words_)) >= _FIRST_WORD
        if self.stop_words:
            allowed &= ~np.isin(self.words_, list(ENGLISH_STOP_WORDS))
        code = 2 * batch.word + batch.negated
        counts = np.bincount(code, minlength=2 * len(self.words_))
        chosen = (counts >= self.min_count) & np.repeat(allowed, 2)
        self.word_columns_ = np.where(chosen, np.cumsum(chosen) - 1, -1)
        usable = allowed[batch.word]
        pairs = self._pairs(code)[usable[:-1] & usable[1:]]
        known, counts = np.unique(pairs, return_counts=True)
        self.pairs_ = known[counts >= self.min_pair_count]

    def _weigh_columns(self, batch: _Batch, y: Iterable[Any] | None) -> None:
        words = int(self.word_columns_.max(initial=-1)) + 1
        self.weights_ = np.ones(words + len(self.pairs_))
        if y is not None:
            rows, columns = self._columns(batch)
            labels = np.asarray(y)[rows]
            total = np.bincount(columns, minlength=len(self.weights_)) + 1.0
            largest = np.zeros(len(self.weights_))
            for label in np.unique(labels):
                inside = np.bincount(columns[labels == label], minlength=len(largest)) + 1.0
                outside = total - inside + 1.0
                ratio = np.log(inside / inside.sum()) - np.log(outside / outside.sum())
                largest = np.maximum(largest, np.abs(ratio))
            self.weights_ = np.sqrt(largest)
        self.weights_[words:] *= self.pair_weight

    def _pairs(self, code: Ints) -> Ints:
        return code[:-1] * (2 * len(self.words_)) + code[1:]

    def _columns(self, batch: _Batch) -> tuple[Ints, Ints]:
        """The row and column of every known word and word pair, in the order of the text."""
        code = 2 * batch.word + batch.negated
        columns = np.full((len(code), 2), -1)
        columns[:, 0] = self.word_columns_[code]
        if len(self.pairs_):
            pairs = self._pairs(code)
            found = np.minimum(np.searchsorted(self.pairs_, pairs), len(self.pairs_) - 1)
            first = len(self.weights_) - len(self.pairs_)
            columns[1:, 1] = np.where(self.pairs_[found] == pairs, first + found, -1)
        flat = columns.ravel()
        known = np.flatnonzero(flat >= 0)
        return batch.row[known >> 1], flat[known]

    def _lexicon(self, batch: _Batch) -> Floats:
        hit = np.flatnonzero(self.valence_[batch.word])
        row, valence, negated = batch.row[hit], self.valence_[batch.word[hit]], batch.negated[hit]
        near = self.boost_[batch.word[hit - 1]]
        before = np.maximum(hit - 2, 0)
        far = np.where(batch.row[before] == row, self.boost_[batch.word[before]], 0.0)
        size = np.abs(valence)
        strength = size + near + _FAR_BOOST * far + _CAPITALS * batch.capitals[hit]
        score = np.copysign(strength, valence) * np.where(negated, _FLIP, 1.0)

        kinds = len(_SCORED)
        kind = kinds * row + 2 * negated + (valence < 0)
        sums = np.empty((batch.posts, len(_LEXICON_COLUMNS)))
        for place, values in enumerate((None, size, strength)):
            per_kind = np.bincount(kind, values, minlength=kinds * batch.posts)
            sums[:, kinds * place : kinds * (place + 1)] = per_kind.reshape(-1, kinds)
        highest, lowest, last, balance = sums[:, -4:].T
        sums[:, -4:] = 0
        np.maximum.at(highest, row, score)
        np.minimum.at(lowest, row, score)
        last[row] = score
        total = np.bincount(row, score, minlength=batch.posts)
        balance[:] = total / np.sqrt(total * total + 15)  # VADER's squashing to -1..1
        return self.lexicon_weight * sums

    def _topics(self, batch: _Batch) -> Floats:
        starts = np.append(np.flatnonzero(batch.word == 0), len(batch.word))
        shape = (batch.posts, len(self.words_))
        words = sparse.csr_matrix((np.ones(len(batch.word)), batch.word, starts), shape=shape)
        lengths = np.maximum(np.diff(starts) - 1, 1)
        means: Floats = (words @ self.topics_) / np.sqrt(lengths)[:, np.newaxis]
        return means


def _listed(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("expected an iterable of posts, got one string")
    return list(texts)


def _tokens(posts: list[str]) -> list[str]:
    text = "".join([_BREAK + post.replace(_BREAK, " ") for post in posts])
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]).replace(_BREAK, " "), text)
    text = _MENTION.sub("@", _LINK.sub("http", text))
    text = _CAMEL_TAG.sub(lambda tag: "# " + _HUMP.sub(" ", tag[1]), text)
    return _TOKEN.findall(text)


def _word(token: str) -> str:
    """The spelling under which a token is counted."""
    word = token.lower().replace("’", "'").strip("'_") or token
    if word[0].isdigit():
        return "0"
    if word[0] in "!?":
        return word[:2] if len(set(word)) == 1 else "?!"
    if word[:2] == "..":
        return ".."
    return _REPEATED.sub(r"\1\1", word)


def _vader() -> tuple[dict[str, float], dict[str, float]]:
    """Valences (-4..4) and boosts of words. An emoji has the sum of its description's words."""
    from vaderSentiment import vaderSentiment as vader  # only the trainer has this package

    analyzer = vader.SentimentIntensityAnalyzer()
    lexicon: dict[str, float] = analyzer.lexicon
    valences = {_word(entry): v for entry, v in lexicon.items() if _TOKEN.fullmatch(entry)}
    for emoji, description in analyzer.emojis.items():
        valence = sum(lexicon.get(word, 0.0) for word in description.split())
        if valence and _TOKEN.fullmatch(emoji):
            valences[emoji] = valence
    boosts = {word: boost for word, boost in vader.BOOSTER_DICT.items() if _TOKEN.fullmatch(word)}
    return valences, boosts


def _word_vectors(batch: _Batch, words: int, size: int, window: int = 8) -> Floats:
    """Unit vectors of the words from the positive pointwise mutual information of neighbours."""
    near = sparse.csr_matrix((words, words))
    for distance in range(1, window + 1):
        left, right = batch.word[:-distance], batch.word[distance:]
        same = (batch.row[:-distance] == batch.row[distance:]) & (left >= _FIRST_WORD)
        same &= right >= _FIRST_WORD
        values = np.full(int(same.sum()), 1 / distance)
        near = near + sparse.csr_matrix((values, (left[same], right[same])), shape=near.shape)
    near = (near + near.T).tocoo()
    if near.nnz == 0 or size == 0:
        return np.zeros((words, size))
    count = np.asarray(near.sum(axis=1)).ravel()
    # The power 0.75 keeps rare contexts from dominating (Levy, Goldberg and Dagan 2015).
    share = count**0.75 / (count**0.75).sum()
    information = np.maximum(np.log(near.data / (count[near.row] * share[near.col])), 0)
    matrix = sparse.csr_matrix((information, (near.row, near.col)), shape=near.shape)
    vectors, strengths, _ = randomized_svd(matrix, size, n_iter=4, random_state=0)
    vectors = vectors * np.sqrt(strengths)
    units: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    return units
