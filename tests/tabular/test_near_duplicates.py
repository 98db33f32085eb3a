"""`deduplicate` with the strategy `near`: texts that are alike enough, found among many."""

from collections import Counter, defaultdict
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of, edge

from nvisy_connectors.tabular import near_duplicates
from nvisy_connectors.tabular.deduplicate import Deduplicate, DeduplicateParams
from nvisy_connectors.tabular.minhash import signatures
from nvisy_dagster.sdk import ConfigError, EdgeType
from nvisy_dagster.sdk.testing import BlockingActionConformance

WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog"),
    *("and", "runs", "away", "from", "all", "of", "them"),
]


def text(*changed: int) -> str:
    return " ".join(f"other{n}" if n in changed else word for n, word in enumerate(WORDS))


class TestNearDuplicates(BlockingActionConformance):
    component = Deduplicate

    @pytest.fixture
    def params(self):
        return DeduplicateParams(strategy="near", threshold=0.6, keep="last")

    @pytest.fixture
    def rows(self):
        return batch_of({"text": [text(), None, text(15), "x", text(3, 9), "x", "", text(0)]})

    def refused(self, rows):
        return [edge({"text": [1]}), edge({"body": ["a"]})]


def places(texts, folder, cut=None, **params) -> list[int]:
    """The places of the texts that stay."""
    kind = params.pop("type", pa.string())
    columns = {"text": pa.array(texts, kind), "place": list(range(len(texts)))}
    batch = batch_of(columns | params.pop("columns", {}))
    action = Deduplicate(DeduplicateParams.model_validate({"strategy": "near", **params}))
    action.output(EdgeType("row", batch.schema))
    batches = [batch.slice(0, cut), batch.slice(cut)] if cut is not None else [batch]
    return [n for made in action.gather(batches, folder) for n in made["place"].to_pylist()]


def corpus(count: int, words: int = 60, seed: int = 3) -> list[str]:
    """Texts, half of them made of earlier ones by changing up to ten words."""
    draw = np.random.default_rng(seed)
    share = 1 / np.arange(1, 5001)
    drawn = draw.choice(5000, size=(count // 2, words), p=share / share.sum())
    texts = [[f"w{n}" for n in row] for row in drawn.tolist()]
    for _ in range(count - len(texts)):
        text = list(texts[draw.integers(len(texts))])
        for place in draw.integers(0, words, draw.integers(0, 10)):
            text[place] = f"z{draw.integers(10**6)}"
        texts.append(text)
    return [" ".join(text) for text in texts]


def likeness(texts: list[str], size: int = 3) -> dict[tuple[int, int], float]:
    """The Jaccard index of every pair that shares a shingle, by counting."""
    sets = [
        {tuple(w[i : i + size]) for i in range(len(w) - size + 1)} for w in map(str.split, texts)
    ]
    having = defaultdict(list)
    for number, found in enumerate(sets):
        for shingle in found:
            having[shingle].append(number)
    both = Counter(pair for some in having.values() for pair in combinations(some, 2))
    return {(a, b): n / (len(sets[a]) + len(sets[b]) - n) for (a, b), n in both.items()}


def groups_of(texts: list[str], folder, threshold: float) -> np.ndarray:
    likeness = near_duplicates.Likeness(threshold, "words", 3, 128)
    action = Deduplicate(DeduplicateParams(strategy="near", threshold=threshold))
    near = near_duplicates.NearDuplicates(
        likeness, action._spilling, "256MB", folder, action._interrupted
    )
    return np.array(near.groups([pa.array(texts[:700]), pa.array(texts[700:])]))


@pytest.mark.parametrize("threshold", [0.5, 0.75, 0.9])
def test_as_counting_finds_them(tmp_path, threshold):
    texts = corpus(1500)
    groups = groups_of(texts, tmp_path, threshold)
    pairs = likeness(texts)
    clear = [pair for pair, share in pairs.items() if share >= threshold + 0.08]
    found = sum(groups[a] == groups[b] for a, b in clear)
    assert len(clear) > 50
    assert found >= 0.99 * len(clear)
    # Whatever is in one group is linked by pairs that are about as alike as asked for.
    leads = np.arange(len(texts))
    for (a, b), share in sorted(pairs.items()):
        if share >= threshold - 0.12:
            one, other = sorted((leads[a], leads[b]))
            leads[leads == other] = one
    assert all(leads[place] == leads[group] for place, group in enumerate(groups.tolist()))


def test_groups_are_what_is_linked_through_others(tmp_path):
    """Each is like the one before it, but the last is not like the first."""
    texts = [text(14, 15), text(15), text(0), text(0, 1), "something else altogether"]
    pairs = likeness(texts)
    assert min(pairs[0, 1], pairs[1, 2], pairs[2, 3]) > 0.7
    assert pairs[0, 3] < 0.56
    assert places(texts, tmp_path, threshold=0.67) == [0, 4]
    assert places([texts[0], texts[3]], tmp_path, threshold=0.67) == [0, 1]


def test_keep_and_order(tmp_path):
    texts = [text(), "no", text(0), text(15)]
    assert places(texts, tmp_path, threshold=0.6, keep="last") == [1, 3]
    order = {"columns": {"at": [2, 0, 1, 3]}, "order_by": ["at"], "threshold": 0.6}
    assert places(texts, tmp_path, **order) == [1, 2]


@pytest.mark.parametrize(
    ("texts", "stay"),
    [
        ([text(), text().upper(), "  " + text().replace(" ", ", \n") + "!"], [0]),
        ([None, None, "", " - ", "!", None], [0, 1, 2, 3, 4, 5]),
        (["a b", "A, b.", "b a", "a", "a"], [0, 2, 3]),
        (
            ["Füße größer als Straßen", "füße größer als straßen", "fuße großer als strassen"],
            [0, 2],
        ),
        (["नमस्ते दुनिया आज", "नमसत दनय आज"], [0, 1]),
    ],
)
def test_what_makes_no_difference(tmp_path, texts, stay):
    assert places(texts, tmp_path) == stay


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_texts_of_any_type(tmp_path, kind):
    assert places([text(), None, "x", text()], tmp_path, type=kind) == [0, 1, 2]


def test_characters_for_languages_without_blanks(tmp_path):
    one = "敏捷的棕色狐狸跳过了懒惰的狗然后从它们所有的身边逃走了再也没有回来过一次"
    texts = [one, one[:-1], one[3:], "完全不同的一句话", "短", "短"]
    assert places(texts, tmp_path, shingle="characters", shingle_size=3) == [0, 3, 4]


@given(
    st.lists(
        st.lists(st.sampled_from(["a", "b", "C", "", "-", "é"]), max_size=9).map(" ".join),
        max_size=25,
    ),
    st.integers(0, 25),
    st.sampled_from(["words", "characters"]),
)
@settings(max_examples=12, deadline=None)
def test_cuts_make_no_difference_and_equals_go(tmp_path_factory, texts, cut, shingle):
    params = {"shingle": shingle, "threshold": 1.0, "permutations": 64}
    whole = places(texts, tmp_path_factory.mktemp("s"), **params)
    assert places(texts, tmp_path_factory.mktemp("s"), cut, **params) == whole
    kept = [texts[place] for place in whole]
    with_words = [one for one in kept if any(map(str.isalpha, one))]
    assert len(set(with_words)) == len(with_words), "two equal texts stay"


def test_many_that_are_alike_and_many_that_are_the_same(tmp_path, monkeypatch):
    """More in a band than are compared with each other, over more than one chunk."""
    monkeypatch.setattr(near_duplicates, "CHUNK_ROWS", 2048)
    texts = [text() for _ in range(3000)]
    other = " ".join(f"word{n}" for n in range(40))
    texts += [f"{other} end{n}" for n in range(2000)]
    texts += [f"only this one {n} {n + 1} {n + 2}" for n in range(0, 3000, 3)]
    assert places(texts, tmp_path) == [0, 3000, *range(5000, 6000)]


@given(
    st.lists(st.integers(0, 2), min_size=20, max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_candidates_share_a_hash(hashes, cuts):
    """With those before it, and the first one, wherever the chunks are cut."""
    hashes, numbers = np.array(sorted(hashes), np.uint64), np.arange(len(hashes)) * 3
    edges = [0, *sorted(min(cut, len(hashes)) for cut in cuts), len(hashes)]
    chunks = [(hashes[a:b], numbers[a:b]) for a, b in pairwise(edges)]
    found = {
        (one, other)
        for some in near_duplicates.candidates(chunks)
        for one, other in zip(*(part.tolist() for part in some), strict=True)
    }
    wanted = set()
    for value in set(hashes.tolist()):
        same = numbers[hashes == value].tolist()
        wanted |= {(same[0], other) for other in same[1:]}
        wanted |= {(a, b) for n, b in enumerate(same) for a in same[max(0, n - 8) : n]}
    assert found == wanted


def test_signatures_are_the_same_for_ever():
    texts = pa.array(["Hello, wide world", None, "x"])
    [(found, made)] = signatures(texts, "words", 2, 3)
    assert found.tolist() == [0, 2]
    assert made[0].tolist() == [1702624623, 1209690001, 631519460]
    [(_, made)] = signatures(texts, "characters", 2, 3)
    assert made[0].tolist() == [125093180, 468846973, 296032600]


def test_refusals(tmp_path):
    wrong = {
        "exact": {"threshold": 0.9},
        "near": {"by": ["a"]},
    }
    for strategy, params in wrong.items():
        with pytest.raises(ValidationError, match="goes with"):
            DeduplicateParams.model_validate({"strategy": strategy, **params})
    action = Deduplicate(DeduplicateParams(strategy="near", column="txt"))
    with pytest.raises(ConfigError, match="there is no column 'txt'") as refused:
        action.output(EdgeType("row", articles().schema))
    assert "text" in str(refused.value.remedy)
    with pytest.raises(ConfigError, match="there is no column 'txt'"):
        list(action.gather([articles()], tmp_path))


def test_interrupted_it_ends(tmp_path):
    action = Deduplicate(DeduplicateParams(strategy="near"))
    batch = batch_of({"text": corpus(200)})
    taken = 0

    def records():
        nonlocal taken
        for taken in range(1, 100):
            yield batch
            if taken == 3:
                action.interrupt()

    with pytest.raises(near_duplicates.InterruptedGatheringError):
        list(action.gather(records(), tmp_path))
    assert taken <= 5
