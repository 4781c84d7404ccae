"""Rows of a hub dataset, streamed through `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hapo_core.errors import DataError, HapoError
from pipeline.config import TableSource
from pipeline.curate.sources.files import LocatedRow


class HubRows:
    """A hub dataset, opened: its commit is known, its rows are streamed.

    Args:
        source: names the dataset, revision, config and split.

    Raises:
        HapoError: no network (or offline mode).
        DataError: no such dataset, revision, config or split.
    """

    def __init__(self, source: TableSource) -> None:
        assert source.hub is not None
        self.source, self.name = source, source.hub
        self.commit, self._stream = self._opened()

    @property
    def where(self) -> str:
        return f"{self.name}@{self.commit[:12]}"

    def rows(self) -> Iterator[LocatedRow]:
        """The rows in order.

        Raises:
            HapoError: the connection broke.
        """
        number = 0
        try:
            for number, row in enumerate(self._stream, start=1):
                where = f"{self.where} {self.source.split} row {number}"
                yield LocatedRow(row, where, number == 1)
        except Exception as error:  # the classes are many; what is not the hub's passes unchanged
            readable = self._readable(error, f"after row {number}")
            if readable is None:
                raise
            raise readable from error

    def _opened(self) -> tuple[str, Any]:
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_OFFLINE

        if HF_HUB_OFFLINE:
            raise HapoError(
                "the dataset is on the hub, but offline mode is on (HF_HUB_OFFLINE)",
                where=self.name,
                remedy="unset HF_HUB_OFFLINE, or set `path` to a local copy",
            )
        try:
            info = HfApi().dataset_info(self.name, revision=self.source.revision, timeout=20)
            commit = str(info.sha)
            from datasets import load_dataset

            stream = load_dataset(
                self.name,
                self.source.config,
                split=self.source.split,
                revision=commit,
                streaming=True,
            )
        except Exception as error:  # as above
            readable = self._readable(error, "opening")
            if readable is None:
                raise
            raise readable from error
        return commit, stream

    def _readable(self, error: Exception, when: str) -> HapoError | None:
        """The HapoError for what hub, network and `datasets` raise; None for other errors."""
        from huggingface_hub.errors import (
            GatedRepoError,
            HfHubHTTPError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )

        where = f"hub dataset {self.name} ({when})"
        if isinstance(error, HapoError):
            return error
        if isinstance(error, GatedRepoError):
            return DataError(
                "the dataset is gated", where=where, remedy="accept its terms, `hf auth login`"
            )
        if isinstance(error, RevisionNotFoundError):
            return DataError(
                f"the dataset has no revision {self.source.revision!r}",
                where=where,
                remedy="name a commit or tag of the dataset's page, or leave `revision` out",
            )
        if isinstance(error, RepositoryNotFoundError):
            return DataError(
                "there is no such dataset on the hub (or it is private)",
                where=where,
                remedy="check the name `owner/dataset`; for a private one, `hf auth login`",
            )
        if isinstance(error, ValueError):  # `datasets` has no narrower class for these
            return DataError(
                f"the dataset has no such config or split: {str(error)[:300]}",
                where=where,
                remedy="set `config` and `split` to ones that it has",
            )
        if isinstance(error, HfHubHTTPError | OSError) or _is_network(error):
            return HapoError(
                f"the hub cannot be reached: {type(error).__name__}: {str(error)[:200]}",
                where=where,
                remedy="check the network, or set `path` to a local copy of the dataset",
            )
        return None


def _is_network(error: BaseException | None) -> bool:
    while error is not None:
        if type(error).__module__.startswith(("httpx", "httpcore", "requests", "aiohttp")):
            return True
        error = error.__cause__
    return False
