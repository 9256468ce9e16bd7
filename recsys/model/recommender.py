"""The model: item table, history encoder, retrieval and Mixture-of-Experts ranking behind one class."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from recsys.model.config import ModelConfig
from recsys.model.encoder import Encoded, SequenceEncoder
from recsys.model.folder import read_model_folder, write_model_folder
from recsys.model.ranker import Ranked, Ranker
from recsys.model.vocabulary import Vocabulary
from router.router import Router
from router.static import StaticRouter


class Recommender(nn.Module):
    """Everything with weights.

    Items enter as rows of a table that the caller builds with `item_table` from the items it has now: it may hold
    items the model never saw and lack some that it did. Row 0 of every table stands for "no item" and pads.

    Args:
        config: shape of the model.
        vocabulary: what its ids mean; must have the sizes that `config` states.
        version: name of these weights, shown with every answer.

    Raises:
        ValueError: naming the size in which config and vocabulary differ.
    """

    def __init__(self, config: ModelConfig, vocabulary: Vocabulary, version: str = "untrained") -> None:
        super().__init__()
        for name, size in vocabulary.sizes().items():
            if getattr(config, name) != size:
                raise ValueError(f"{name}: {getattr(config, name)} in the config, {size} in the vocabulary")
        self.config = config
        self.vocabulary = vocabulary
        self.version = version
        self.item_ids = nn.Embedding(config.items + 1, config.width)
        self.item_categories = nn.Linear(config.categories, config.width, bias=False)
        self.item_years = nn.Embedding(config.years + 1, config.width)
        self.encoder = SequenceEncoder(config)
        self.ranker = Ranker(config)
        for weight in (self.item_ids.weight, self.item_categories.weight, self.item_years.weight):
            nn.init.normal_(weight, std=0.02)
        with torch.no_grad():
            self.item_ids.weight[0].zero_()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.item_ids.weight.device

    def item_table(self, ids_I: Tensor, categories_IC: Tensor, years_I: Tensor) -> Tensor:
        """Vectors of items: an embedding of the id plus one of the content (categories and year).

        Args:
            ids_I: trained ids; 0 for an item that was not trained, which then has its content alone.
            categories_IC: weights of the categories, as `Vocabulary.item_features` builds them.
            years_I: year buckets.

        Returns:
            table_ID. In training mode the id embeddings of a random share of items are left out.
        """
        known_I = (ids_I != 0).to(self.item_ids.weight.dtype)
        if self.training and self.config.id_dropout:
            known_I = known_I * (torch.rand_like(known_I) >= self.config.id_dropout)
        content_ID = self.item_categories(categories_IC) + self.item_years(years_I)
        return content_ID + self.item_ids(ids_I) * known_I[:, None]

    def encode(self, history_BL: Tensor, kinds_BL: Tensor, table_ID: Tensor, *, compact: bool = False) -> Encoded:
        """Read histories, newest event last.

        Args:
            history_BL: rows of the table, 0 = padding, anywhere in a row. L may be 0: a cold start.
            kinds_BL: index of the kind of each event, 0 = unknown.
            compact: the caller promises at most `config.history` events a row, and padding at the end only.
            table_ID: from `item_table`.

        Returns:
            What `retrieval_scores` and `rank` need. Neither the amount of padding nor other rows change a row.
        """
        encoded: Encoded = self.encoder(history_BL, kinds_BL, table_ID, compact=compact)
        return encoded

    def retrieval_scores(self, user_BD: Tensor, table_ID: Tensor) -> Tensor:
        """scores_BI of every row of the table by dot product; row 0, which is no item, has minus infinity."""
        scores_BI = user_BD @ table_ID.T
        scores_BI[:, 0].fill_(-torch.inf)
        return scores_BI

    def rank(
        self,
        encoded: Encoded,
        candidates_BN: Tensor,
        table_ID: Tensor,
        router: Router | StaticRouter,
        places_BP: Tensor | None = None,
    ) -> Ranked:
        """Score candidates for every goal.

        Args:
            encoded: from `encode`, B rows.
            candidates_BN: rows of the table; 0 = padding, whose scores are finite and mean nothing.
            table_ID: the table that `encode` used.
            router: picks the experts. With `free_router` a candidate's scores depend on nothing else in the
                batch.
            places_BP: positions of the history after which to score, as if no later event were known, each for the
                next N / P candidates; default the newest. In training many positions share one history.
        """
        vectors_BND = nn.functional.embedding(candidates_BN, table_ID)
        ranked: Ranked = self.ranker(encoded, vectors_BND, candidates_BN != 0, router, places_BP)
        return ranked

    def free_router(self) -> Router:
        """Routing without limits: plain top-k, or with gate `self` each expert's own decision."""
        layers, experts = self.config.moe_layers, self.config.experts
        if self.config.gate == "softmax":
            return Router.unconstrained(layers, experts)
        return Router("threshold", capacity_factor=float(experts), layers=layers, experts=experts)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write `config.json`, `vocabulary.json` and `model.safetensors`, the folder appearing as a whole."""
        write_model_folder(Path(folder), self.config, self.vocabulary, self.version, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: torch.device | str = "cpu") -> Recommender:
        """Read a folder written by `save_pretrained`, in evaluation mode.

        Raises:
            ModelFolderError: naming the file and what is wrong with it.
        """
        content = read_model_folder(Path(folder))
        model = cls(content.config, content.vocabulary, content.version)
        content.load_into(model)
        return model.to(device).eval()
