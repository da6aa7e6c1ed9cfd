"""What never changes in a catalogue, and its versions, opened."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from compressae.retrieval.codes import FORMS, Codes
from compressae.retrieval.errors import InputError
from compressae.retrieval.index.compressed import CompressedIndex
from compressae.retrieval.index.inverted import InvertedIndex
from compressae.retrieval.index.projection import Projection
from compressae.retrieval.io.artifacts import load_artifact, read_config, write_artifact
from compressae.retrieval.io.schema import checked
from compressae.retrieval.store.files import Stored, open_stored, without_removals
from compressae.retrieval.store.metadata import Engine
from compressae.retrieval.store.version import Identity, Version

if TYPE_CHECKING:
    import pyarrow as pa

KIND = "catalogue"
#: Kinds of folders that indexes were saved as before there were catalogues.
_OLDER = ("index", "inverted")

Index = CompressedIndex | InvertedIndex


@dataclass(frozen=True)
class _Settings:
    """The settings in ``config.json``.

    Attributes:
        catalogue: which catalogue this is.
        ids: what identifies rows for the user.
        form: stem of the codes' form.
        codes: settings of the codes.
        model: settings of the model; None if queries are sparse.
        similarity, list_type: of an index without a model.
        columns: names and Arrow types of the metadata; None if rows have none.
    """

    catalogue: Identity
    ids: Literal["integers", "texts"]
    form: Literal["packed", "codes"]
    codes: dict[str, Any]
    model: dict[str, Any] | None
    similarity: Literal["cosine", "dot"] | None
    list_type: Literal["int8", "float32"] | None
    columns: dict[str, str] | None = None


@dataclass(frozen=True, eq=False)
class View:
    """A version, opened.

    Attributes:
        version: the version.
        index: of its segments.
        stored: the segments as they lie on disk, in the index's order.
    """

    version: Version
    index: Index
    stored: tuple[Stored, ...]


@dataclass(frozen=True, eq=False)
class Root:
    """What never changes in a catalogue.

    Attributes:
        path: its folder.
        texts: ids are texts.
        like: codes that share all but the rows with every segment's.
        projection: weights of the model; None if queries are sparse.
        settings: as saved.
        threads: processors to use; all that the process may use when None.
        engine: evaluates conditions of the metadata.
    """

    path: Path
    texts: bool
    like: Codes
    projection: Projection | None
    settings: _Settings
    threads: int | None
    engine: Engine

    @classmethod
    def write(cls, folder: Path, index: Index, texts: bool, metadata: "pa.Table | None") -> str:
        """Write the parts of an index that no change touches into a new folder.

        Args:
            folder: where to write.
            index: of the catalogue.
            texts: ids are texts.
            metadata: a table of the rows' columns, if any.

        Returns:
            The catalogue's identity.
        """
        codes = index.segments.parts[0].codes
        settings = {
            "catalogue": secrets.token_hex(16),
            "ids": "texts" if texts else "integers",
            "form": codes.stem,
            "codes": codes.artifact_settings(),
            "model": None,
            "similarity": None,
            "list_type": None,
            "columns": None,
        }
        if metadata is not None:
            settings["columns"] = {column.name: str(column.type) for column in metadata.schema}
        tensors = {"codes": codes.shared_arrays()}
        if isinstance(index, CompressedIndex):
            settings["model"] = index.projection.artifact_settings()
            tensors["model"] = index.projection.arrays()
        else:
            settings |= {"similarity": index.similarity, "list_type": index.list_type}
        tensors = {stem: arrays for stem, arrays in tensors.items() if arrays}
        write_artifact(folder, KIND, settings, tensors)
        return str(settings["catalogue"])

    @classmethod
    def open(cls, path: Path, threads: int | None, verify: bool = False) -> "Root":
        """Open a catalogue's folder.

        Args:
            path: the folder.
            threads: see the class.
            verify: compare the files with their checksums.

        Raises:
            InputError: no whole catalogue.
        """
        try:
            artifact = load_artifact(path, KIND, verify)
        except InputError:
            if read_config(path).kind not in _OLDER:
                raise
            raise InputError(
                f"{path}: an index of an older compressae; build it again: compressae index"
            ) from None
        settings = checked(artifact.settings, _Settings, str(path), "copy the catalogue again")
        shared = {k: np.asarray(v) for k, v in artifact.tensors.get("codes", {}).items()}
        like = FORMS[settings.form].prototype(settings.codes, shared)
        projection = None
        if settings.model is not None:
            weights = artifact.tensors.get("model", {})
            projection = Projection.from_parts(settings.model, weights, str(path))
        engine = Engine(threads)
        return cls(path, settings.ids == "texts", like, projection, settings, threads, engine)

    @property
    def columns(self) -> dict[str, str] | None:
        """Names and Arrow types of the metadata; None if rows have none."""
        return self.settings.columns

    def open_version(self, version: Version, before: View | None, verify: bool = False) -> View:
        """Open the segments of a version.

        Args:
            version: one of the catalogue.
            before: a view whose segments are used where the version has them too.
            verify: compare files with their checksums, which reads them.

        Raises:
            InputError: files are missing, damaged, or do not fit; or the catalogue was replaced by
                another.
        """
        if version.catalogue != self.settings.catalogue:
            raise InputError(f"{self.path}: was replaced by another catalogue; open it again")
        opened = {}
        if before is not None and not verify:
            opened = {part.record: part.whole for part in before.stored}
        try:
            stored = [
                opened.get(record)
                or open_stored(
                    self.path, record, self.like, self.texts, self.columns, verify, self.threads
                )
                for record in version.segments
            ]
            stored = without_removals(self.path, stored, version.removals)
        except OSError as error:  # Pruned meanwhile, or a disk that fails.
            raise InputError(
                f"{self.path}: version {version.number} could not be read ({error})"
            ) from error
        parts = [part.segment for part in stored]
        if before is not None:
            index = before.index.over(parts, version.next_id)
            if isinstance(index, CompressedIndex):
                index.configure(version.search)
        else:
            index = self._index(parts, version)
        return View(version, index, tuple(stored))

    def _index(self, parts: list, version: Version) -> Index:
        settings = self.settings
        if self.projection is not None:
            return CompressedIndex.of(
                self.projection, parts, version.next_id, self.threads, version.search
            )
        similarity, list_type = settings.similarity or "dot", settings.list_type or "int8"
        return InvertedIndex.of(parts, version.next_id, self.threads, similarity, list_type)
