"""The embedding model that ships with the package: no key, no network, thousands of texts a second.

`wordllama-l2-supercat-256` averages the static token vectors of WordLlama (MIT licence; trained
from the token codebooks of Llama 2). It finds texts that share words and topics; it does not read
word order.
"""

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nvisy_connectors.ai.tokenizer import WORDLLAMA, load_tokenizer, wordllama_file
from nvisy_dagster.sdk import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDLLAMA_MODEL = "wordllama-l2-supercat-256"

LOCAL_DIMENSIONS = {WORDLLAMA_MODEL: (256, 128, 64)}
"""Local models and the dimensions of their vectors, their own first.

The smaller ones are leading parts of the vector, which the model was trained to bear.
"""


@dataclass(frozen=True)
class LocalModel:
    """Token vectors and their tokenizer; may be used by several threads at once."""

    vectors: npt.NDArray[np.float32]
    """One row per token of the vocabulary."""
    tokenizer: "Tokenizer"

    def embed(
        self, texts: list[str], dimensions: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """The mean token vector of each text, not normalized, and its count of tokens.

        Memory is bounded by the vocabulary, not by the length of a text.
        """
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        table = self.vectors[:, :dimensions]
        means = np.zeros((len(texts), dimensions), np.float32)
        counts = np.zeros(len(texts), np.int32)
        for row, encoding in enumerate(encoded):
            tokens, times = np.unique(encoding.ids, return_counts=True)
            counts[row] = len(encoding)
            if len(tokens):
                means[row] = times.astype(np.float32) @ table[tokens] / counts[row]
        return means, counts


@cache
def load_local_model(name: str) -> LocalModel:
    """The model of that name, loaded once per process; reads a file of 16 MB.

    Raises:
        ConfigError: There is no such model, or its package is not installed.
    """
    if name != WORDLLAMA_MODEL:
        raise ConfigError(f"there is no local model {name!r}", remedy=f"use {WORDLLAMA_MODEL!r}")
    weights = wordllama_file("weights/l2_supercat_256.safetensors")
    from safetensors.numpy import load_file

    vectors = load_file(weights)["embedding.weight"].astype(np.float32)
    return LocalModel(vectors, load_tokenizer(WORDLLAMA))
