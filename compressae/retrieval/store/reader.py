"""CatalogueReader: what a cache and a service read, a catalogue or catalogues of shards."""

from typing import TYPE_CHECKING, Any, Protocol

from compressae.retrieval.codes import Codes
from compressae.retrieval.index.hits import Hits
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.embeddings import Similarity

if TYPE_CHECKING:
    import pyarrow as pa


class CatalogueReader(Protocol):
    """``Catalogue`` and ``ShardedCatalogue``, as one reads them: n rows at one version."""

    @property
    def version(self) -> int | tuple[int, ...]:
        """Number of the version that is open; of shards one each. It only grows."""

    @property
    def projection(self) -> Projection | None:
        """Weights of the model; None where queries are sparse."""

    @property
    def like(self) -> Codes:
        """Codes that share all but the rows with every segment's."""

    @property
    def similarity(self) -> Similarity:
        """How queries are compared with rows."""

    @property
    def has_text_ids(self) -> bool:
        """Whether ids are texts."""

    @property
    def columns(self) -> dict[str, str]:
        """Names and Arrow types of the metadata; empty without."""

    def __len__(self) -> int:
        """n."""

    def search(self, queries: Any, K: int, **options: Any) -> Hits:
        """Find the K best rows of each query; see ``Catalogue.search``."""

    def as_queries(self, ids: Any) -> Any:
        """Rows of distinct ids (m,) as queries; see ``Catalogue.as_queries``."""

    def metadata(self, ids: Any) -> "pa.Table":
        """Read the metadata of distinct ids (m,), in their order."""

    def pin(self) -> "CatalogueReader":
        """The version that is open, as a reader that stays at it when this one moves on."""

    def refresh(self) -> bool:
        """Move to the newest version; return whether there was a newer one."""
